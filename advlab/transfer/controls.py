"""Sources that are not attacked themselves: noise that an adversarial example has to beat, and larger perturbations.

From nothing but the clean image:

``gaussian-σ``            x + σ·n, not clipped, as in the paper's Table 2
``gaussian-σ-clipped``    the same, clipped to the box

From the perturbation r that was found for a model, row by row of the same ‖r‖₂ but for what clipping takes:

``noise-MODEL``           Gaussian noise whose σ is the RMS of r
``sphere-MODEL``          a direction drawn uniformly from the sphere
``shuffled-MODEL``        r with its pixels permuted at random
``borrowed-MODEL``        the r of the next image of the shard

``amplified-ρ-MODEL``     x + ρ·r/RMS(r), the lower half of the paper's Table 4, not clipped
``amplified-ρ-clipped-MODEL``  the same, then clipped to the box: its RMS falls short of ρ
``amplified-ρ-boxed-MODEL``    the multiple of r whose RMS is ρ after clipping to the box
``amplified-ρ-literal-MODEL``  x + ρ·r/‖r‖₂, as section 4.2 prints it, not clipped

``shuffled`` and so on, with no model, stand for one such source per attacked model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.transfer.generate import Examples, distortion

_NUMBER = r"\d*\.?\d+"
_GAUSSIAN = re.compile(rf"gaussian-(?P<amount>{_NUMBER})(-(?P<variant>clipped))?")
_DERIVED = re.compile(
    rf"(?P<kind>noise|sphere|shuffled|borrowed|amplified-(?P<amount>{_NUMBER})(-(?P<variant>clipped|boxed|literal))?)"
    r"(-(?P<model>.+))?"
)
MATCHED = ("noise", "sphere", "shuffled", "borrowed")
"""Controls that have each perturbation's own norm."""
CURVE = (0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
"""RMS to which perturbations are amplified, or shrunk, for the curve of transfer against size."""
_BISECTIONS, _OCTAVES = 32, 20.0


@dataclass(frozen=True, slots=True)
class Control:
    """A control's name, taken apart.

    Attributes:
        kind: ``gaussian``, ``noise``, ``sphere``, ``shuffled``, ``borrowed`` or ``amplified``.
        model: the model whose examples it is made from; None where it needs none or no model was named.
        amount: σ or ρ, where the kind has one.
        variant: ``clipped``, ``boxed``, ``literal`` or nothing.
    """

    kind: str
    model: str | None
    amount: float
    variant: str


def parse(name: str) -> Control | None:
    """What a control's name says, or None where it is no control's."""
    match = _GAUSSIAN.fullmatch(name) or _DERIVED.fullmatch(name)
    if match is None:
        return None
    parts = match.groupdict()
    kind = name.partition("-")[0]
    return Control(kind, parts.get("model"), float(parts["amount"] or 0.0), parts["variant"] or "")


def expand(controls: list[str], models: list[str]) -> list[str]:
    """The names of the control sources that ``--controls`` asks for, given the attacked models."""
    names: list[str] = []
    for control in controls:
        said = parse(control)
        is_for_all = said is not None and said.kind != "gaussian" and said.model is None
        names += [f"{control}-{model}" for model in models] if is_for_all else [control]
    return list(dict.fromkeys(names))


def validate(controls: list[str], models: list[str]) -> None:
    """Raise a UserError naming the first control that is none."""
    for control in expand(controls, models):
        said = parse(control)
        if said is not None and (said.kind == "gaussian" or said.model in models):
            continue
        raise UserError(
            f"unknown control {control!r}; choose gaussian-SIGMA, gaussian-SIGMA-clipped, or one of shuffled, sphere, "
            "noise, borrowed, amplified-RMS, amplified-RMS-clipped, -boxed and -literal, by itself for all models or "
            "followed by - and one of the attacked models."
        )


def attacked_model(control: str) -> str | None:
    """The model whose examples a control is made from, or None when it needs none."""
    said = parse(control)
    return None if said is None else said.model


def make(control: str, clean: Dataset, attacked: Examples | None, *, seed: int) -> Examples:
    """Distort images as a control does; each image's noise depends on (control, seed, its index) alone.

    Args:
        control: a name that ``validate`` admits.
        clean: the images, in the order of ``attacked`` where that is given.
        attacked: the examples found for the model that the control names, where it names one.
        seed: of the noise.
    """
    said = parse(control)
    assert said is not None
    images = clean.images.numpy()
    index = clean.index.numpy()
    if said.kind == "gaussian":
        distorted = images + np.float32(said.amount) * _normal(control, seed, index, images.shape)
    else:
        assert attacked is not None
        distorted = _derived(control, said, images, attacked.images - images, index, seed)
    if said.variant == "clipped":
        distorted = distorted.clip(0, 1)
    rows = len(images)
    return Examples(
        index=index,
        label=clean.labels.numpy(),
        target=np.full(rows, -1),
        success=np.zeros(rows, bool),
        c=np.full(rows, np.nan),
        evaluations=np.zeros(rows, np.int64),
        survives_uint8=np.zeros(rows, bool),
        images=distorted,
        **distortion(images, distorted),
    )


def _derived(
    control: str, said: Control, images: np.ndarray, perturbation: np.ndarray, index: np.ndarray, seed: int
) -> np.ndarray:
    """Images [N, C, H, W] distorted by something made from the perturbations found for a model, [N, C, H, W]."""
    if said.kind == "amplified":
        return amplify(images, perturbation, said.amount, said.variant)
    if said.kind == "borrowed":
        return images + np.roll(perturbation, -1, axis=0)
    if said.kind == "shuffled":
        noise = np.empty_like(images)
        for row, position in enumerate(index):
            shuffled = _generator(control, seed, position).permutation(perturbation[row].ravel())
            noise[row] = shuffled.reshape(images[row].shape)
        return images + noise
    noise = _normal(control, seed, index, images.shape)
    size = _rms(perturbation)
    return images + noise * (size / _rms(noise) if said.kind == "sphere" else size)


def amplify(images: np.ndarray, perturbation: np.ndarray, amount: float, variant: str = "") -> np.ndarray:
    """x + s·r, s chosen per image so that the distortion is ``amount``; rows without a perturbation stay as they are.

    Args:
        images: x, [N, ...] in [0, 1].
        perturbation: r, [N, ...].
        amount: ρ.
        variant: nothing: RMS ρ, clipping left to the caller. ``boxed``: clipped to [0, 1] and of RMS ρ after that, or
            as near to it as the box allows. ``literal``: ‖·‖₂ in place of the RMS, as printed in section 4.2.
    """
    size = _rms(perturbation)
    if variant == "literal":
        size = size * np.float32(np.sqrt(perturbation[0].size))
    unit = np.divide(perturbation, size, out=np.zeros_like(perturbation), where=size > 0)
    if variant != "boxed":
        return images + np.float32(amount) * unit
    low, high = np.full(size.shape, -_OCTAVES), np.full(size.shape, _OCTAVES)
    for _ in range(_BISECTIONS):  # the RMS after clipping grows with the multiple, sought here by its logarithm
        middle = (low + high) / 2
        is_short = _rms((images + np.exp2(middle) * unit).clip(0, 1) - images) < amount
        low, high = np.where(is_short, middle, low), np.where(is_short, high, middle)
    return (images + np.exp2(high) * unit).clip(0, 1).astype(np.float32)


def _rms(difference: np.ndarray) -> np.ndarray:
    """√(Σ d²/n) per row, [N, 1, ...]."""
    inner = tuple(range(1, difference.ndim))
    return np.sqrt(np.square(difference, dtype=np.float64).mean(inner, keepdims=True)).astype(np.float32)


def _normal(control: str, seed: int, index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers of this shape [N, ...], float32."""
    noise = np.empty(shape, np.float32)
    for row, position in enumerate(index):
        noise[row] = _generator(control, seed, position).standard_normal(shape[1:], np.float32)
    return noise


def _generator(control: str, seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(index), *control.encode()])
