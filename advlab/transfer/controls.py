"""Distortions that know no model: what an adversarial example has to beat.

``gaussian-σ``          x + σ·n, not clipped, as in the paper's Table 2
``gaussian-σ-clipped``  the same, clipped to the box
``shuffled-MODEL``      the perturbation found for MODEL with its pixels permuted at random, so of the same norm
``shuffled``            the former for every attacked model
"""

from __future__ import annotations

import re

import numpy as np

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.transfer.generate import Examples, distortion

_GAUSSIAN = re.compile(r"gaussian-(\d*\.?\d+)(-clipped)?")


def expand(controls: list[str], models: list[str]) -> list[str]:
    """The names of the control sources that ``--controls`` asks for, given the attacked models."""
    names: list[str] = []
    for control in controls:
        names += [f"shuffled-{model}" for model in models] if control == "shuffled" else [control]
    return list(dict.fromkeys(names))


def validate(controls: list[str], models: list[str]) -> None:
    """Raise a UserError naming the first control that is none."""
    for control in expand(controls, models):
        attacked = attacked_model(control)
        if attacked in models or (attacked is None and _GAUSSIAN.fullmatch(control)):
            continue
        raise UserError(
            f"unknown control {control!r}; choose gaussian-SIGMA, gaussian-SIGMA-clipped, shuffled, or "
            "shuffled-MODEL with one of the attacked models."
        )


def attacked_model(control: str) -> str | None:
    """The model whose examples a control is made from, or None when it needs none."""
    return control.removeprefix("shuffled-") if control.startswith("shuffled-") else None


def make(control: str, clean: Dataset, attacked: Examples | None, *, seed: int) -> Examples:
    """Distort images as a control does; each image's noise depends on (control, seed, its index) alone.

    Args:
        control: a name that ``validate`` admits.
        clean: the images, in the order of ``attacked`` where that is given.
        attacked: for ``shuffled-MODEL``, the examples found for MODEL.
        seed: of the noise.
    """
    images = clean.images.numpy()
    index = clean.index.numpy()
    noise = np.empty_like(images)
    clipped = False
    if gaussian := _GAUSSIAN.fullmatch(control):
        sigma, clipped = np.float32(gaussian[1]), gaussian[2] is not None
        for row, position in enumerate(index):
            noise[row] = sigma * _generator(control, seed, position).standard_normal(images[row].shape, np.float32)
    else:
        assert attacked is not None
        for row, position in enumerate(index):
            perturbation = (attacked.images[row] - images[row]).ravel()
            noise[row] = _generator(control, seed, position).permutation(perturbation).reshape(images[row].shape)
    distorted = images + noise
    if clipped:
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


def _generator(control: str, seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(index), *control.encode()])
