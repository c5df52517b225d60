"""Controls: sources that are not attacked, such as noise of the same norm and amplified perturbations.

``gaussian-σ`` is x + σ·n, as in the paper's Table 2. The following have the norm ‖r‖₂ of the perturbation r found for a
model, row by row: ``noise-MODEL`` (Gaussian noise whose σ is the RMS of r), ``sphere-MODEL`` (a uniform direction),
``shuffled-MODEL`` (r with its pixels permuted) and ``borrowed-MODEL`` (the r of the next image of the shard).
``amplified-ρ-MODEL`` is x + ρ·r/RMS(r), the lower half of Table 4; its variant ``-boxed`` has RMS ρ after clipping to
the box, and ``-literal`` is x + ρ·r/‖r‖₂, as section 4.2 prints it. Only ``-clipped`` and ``-boxed`` ones are clipped.
Without a model, a name stands for one such source per attacked model.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.transfer.generate import Examples, distortion

_NUMBER = r"\d*\.?\d+"
MATCHED = ("noise", "sphere", "shuffled", "borrowed")
"""Controls with the same norm as each perturbation."""
CURVE = (0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
"""RMS to which perturbations are amplified, or shrunk, for the curve of transfer against size."""
_BISECTIONS, _OCTAVES = 32, 20.0


@dataclass(frozen=True, slots=True)
class Control:
    """A parsed control name: ``kind`` (a key of ``KINDS``), ``amount`` (σ or ρ, if the kind has one), ``variant``
    (``clipped``, ``boxed``, ``literal`` or empty) and ``model`` (whose examples it is made from, or None).
    """

    kind: str
    model: str | None
    amount: float
    variant: str


@dataclass(frozen=True, slots=True)
class Given:
    """The input of a control: images at ``index`` of the data set and the perturbations found for them.

    Both float32 [N, C, H, W], perturbations zero if the kind uses no model's; random numbers depend on the control's
    name, ``seed`` and ``index``.
    """

    control: str
    parsed: Control
    images: np.ndarray
    perturbation: np.ndarray
    index: np.ndarray
    seed: int


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of control.

    Attributes:
        distort: the distorted images, before clipping.
        text: its description, with ``{amount:g}`` and ``{model}``.
        from_model: whether it is made from the perturbations found for a model.
        has_amount, variants: whether a number follows the kind in its name, and the suffixes that may follow.
    """

    distort: Callable[[Given], np.ndarray]
    text: str
    from_model: bool = True
    has_amount: bool = False
    variants: tuple[str, ...] = ()

    def pattern(self, name: str) -> str:
        amount = rf"-(?P<amount>{_NUMBER})" if self.has_amount else "(?P<amount>)"
        variant = rf"(-(?P<variant>{'|'.join(self.variants)}))?" if self.variants else "(?P<variant>)"
        return re.escape(name) + amount + variant + ("(-(?P<model>.+))?" if self.from_model else "(?P<model>)")


def register(name: str, kind: Kind) -> None:
    """Register your own kind of control in this process; the driver and every actor need it. Raises a UserError if the
    name is registered already.
    """
    if name in KINDS:
        raise UserError(f"control {name!r} exists already; register yours under another name.")
    KINDS[name] = kind


def parse(name: str) -> Control | None:
    """Parse the name of a control; None if it is not one."""
    kind = name.partition("-")[0]
    match = re.fullmatch(KINDS[kind].pattern(kind), name) if kind in KINDS else None
    if match is None:
        return None
    return Control(kind, match["model"] or None, float(match["amount"] or 0.0), match["variant"] or "")


def describe(name: str) -> str:
    """A description of a control: ``gaussian-0.1`` is "Gaussian noise of stddev 0.1"."""
    parsed = parse(name)
    if parsed is None or (KINDS[parsed.kind].from_model and parsed.model is None):
        return name
    text = KINDS[parsed.kind].text.format(amount=parsed.amount, model=parsed.model)
    return f"{text}, {parsed.variant}" if parsed.variant else text


def expand(controls: list[str], models: list[str]) -> list[str]:
    """The names of the control sources that a list of controls stands for, given the attacked models."""
    names: list[str] = []
    for control in controls:
        parsed = parse(control)
        is_for_all = parsed is not None and KINDS[parsed.kind].from_model and parsed.model is None
        names += [f"{control}-{model}" for model in models] if is_for_all else [control]
    return list(dict.fromkeys(names))


def validate(controls: list[str], models: list[str]) -> None:
    """Raise a UserError naming the first name that is not a control's."""
    for control in expand(controls, models):
        parsed = parse(control)
        if parsed is not None and (not KINDS[parsed.kind].from_model or parsed.model in models):
            continue
        raise UserError(
            f"unknown control {control!r}; choose gaussian-SIGMA, gaussian-SIGMA-clipped, or one of shuffled, sphere, "
            "noise, borrowed, amplified-RMS, amplified-RMS-clipped, -boxed and -literal, by itself for all models or "
            "followed by - and one of the attacked models."
        )


def attacked_model(control: str) -> str | None:
    """The model whose examples a control is made from, or None."""
    parsed = parse(control)
    return None if parsed is None else parsed.model


def make(control: str, clean: Dataset, attacked: Examples | None, *, seed: int) -> Examples:
    """Apply a control to images; each image's noise depends only on (control, seed, its index). ``attacked`` are the
    examples of the model that the control names, if it names one, in the order of ``clean``.
    """
    parsed = parse(control)
    assert parsed is not None
    images = clean.images.numpy()
    index = clean.index.numpy()
    perturbation = np.zeros_like(images) if attacked is None else attacked.images - images
    distorted = KINDS[parsed.kind].distort(Given(control, parsed, images, perturbation, index, seed))
    if parsed.variant == "clipped":
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


def _gaussian(given: Given) -> np.ndarray:
    return given.images + np.float32(given.parsed.amount) * _normal(given)


def _noise(given: Given) -> np.ndarray:
    return given.images + _normal(given) * _rms(given.perturbation)


def _sphere(given: Given) -> np.ndarray:
    noise = _normal(given)
    return given.images + noise * (_rms(given.perturbation) / _rms(noise))


def _shuffled(given: Given) -> np.ndarray:
    noise = np.empty_like(given.images)
    for row, position in enumerate(given.index):
        shuffled = _generator(given, position).permutation(given.perturbation[row].ravel())
        noise[row] = shuffled.reshape(given.images[row].shape)
    return given.images + noise


def _borrowed(given: Given) -> np.ndarray:
    return given.images + np.roll(given.perturbation, -1, axis=0)


def _amplified(given: Given) -> np.ndarray:
    return amplify(given.images, given.perturbation, given.parsed.amount, given.parsed.variant)


def amplify(images: np.ndarray, perturbation: np.ndarray, amount: float, variant: str = "") -> np.ndarray:
    """x + s·r, with s chosen per image so that the distortion is ``amount``; rows without a perturbation are unchanged.

    Args:
        images, perturbation: x in [0, 1] and r, [N, ...].
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
    for _ in range(_BISECTIONS):  # the RMS after clipping grows with the multiple; bisection on its logarithm
        middle = (low + high) / 2
        is_short = _rms((images + np.exp2(middle) * unit).clip(0, 1) - images) < amount
        low, high = np.where(is_short, middle, low), np.where(is_short, high, middle)
    return (images + np.exp2(high) * unit).clip(0, 1).astype(np.float32)


def _rms(difference: np.ndarray) -> np.ndarray:
    """√(Σ d²/n) per row, [N, 1, ...]."""
    inner = tuple(range(1, difference.ndim))
    return np.sqrt(np.square(difference, dtype=np.float64).mean(inner, keepdims=True)).astype(np.float32)


def _normal(given: Given) -> np.ndarray:
    """Standard normal numbers of the images' shape, float32."""
    noise = np.empty(given.images.shape, np.float32)
    for row, position in enumerate(given.index):
        noise[row] = _generator(given, position).standard_normal(noise.shape[1:], np.float32)
    return noise


def _generator(given: Given, index: int) -> np.random.Generator:
    return np.random.default_rng([given.seed, int(index), *given.control.encode()])


KINDS = {
    "gaussian": Kind(
        _gaussian, "Gaussian noise of stddev {amount:g}", from_model=False, has_amount=True, variants=("clipped",)
    ),
    "noise": Kind(_noise, "Gaussian noise as large as the perturbation of {model}"),
    "sphere": Kind(_sphere, "Random direction as long as the perturbation of {model}"),
    "shuffled": Kind(_shuffled, "Shuffled perturbation of {model}"),
    "borrowed": Kind(_borrowed, "Another image's perturbation of {model}"),
    "amplified": Kind(
        _amplified,
        "Perturbation of {model} amplified to {amount:g}",
        has_amount=True,
        variants=("clipped", "boxed", "literal"),
    ),
}
"""Every kind of control, by the first word of its names."""
