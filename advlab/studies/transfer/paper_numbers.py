"""The tables of Szegedy et al. 2013, section 4, as data: what a study is printed beside.

Rates are fractions (0.067 is the paper's 6.7%) and models carry the names of this package's zoo.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FEWEST = 100
"""Images of each model below which the paper's rates say nothing about ours: a 95% interval spans up to 20 points."""


@dataclass(frozen=True, slots=True)
class PaperModel:
    """A row of Table 1: name and description as the paper has them, and rates of the whole sets.

    ``distortion`` is "av. min. distortion", the mean RMS that brings the training accuracy to 0.
    """

    name: str
    description: str
    train_error: float
    test_error: float
    distortion: float


@dataclass(frozen=True, slots=True)
class PaperMatrix:
    """Error rates of target models (columns) on examples distorted for a source (rows), and their mean RMS.

    Names may have the draw of their halves in them (``…@p1@3``); the paper's have none.
    """

    targets: tuple[str, ...]
    error_rates: dict[str, tuple[float, ...]]
    distortion: dict[str, float]

    def error_rate(self, source: str, target: str) -> float | None:
        """The paper's rate of ``target`` on ``source``'s examples, or None where it has none."""
        source, target = undrawn(source), undrawn(target)
        if source not in self.error_rates or target not in self.targets:
            return None
        return self.error_rates[source][self.targets.index(target)]

    def rms(self, source: str) -> float | None:
        """The mean RMS that the paper prints for a source's examples, or None where it has none."""
        return self.distortion.get(undrawn(source))


FIGURE_5 = {"examples": 64, "distortion": 0.006508}
"""Its caption: AlexNet on ImageNet, and the mean RMS; the paper does not say towards which classes."""


@dataclass(frozen=True, slots=True)
class PaperSplitModel:
    """A row of Table 3: a model trained on one half of the training set, P1 or P2, and the mean RMS of its examples."""

    name: str
    p1_error: float
    p2_error: float
    test_error: float
    distortion: float


TABLE_1 = {
    "softmax1e-4": PaperModel("softmax1", "softmax, λ = 1e-4", 0.067, 0.074, 0.062),
    "softmax1e-2": PaperModel("softmax2", "softmax, λ = 1e-2", 0.10, 0.094, 0.1),
    "softmax1": PaperModel("softmax3", "softmax, λ = 1", 0.212, 0.20, 0.14),
    "fc100-100-10": PaperModel("N100-100-10", "sigmoid network, λ = 1e-5, 1e-5, 1e-6", 0.0, 0.0164, 0.058),
    "fc200-200-10": PaperModel("N200-200-10", "sigmoid network, λ = 1e-5, 1e-5, 1e-6", 0.0, 0.0154, 0.065),
    "ae400-10": PaperModel("AE400-10", "autoencoder with softmax, λ = 1e-6", 0.0057, 0.019, 0.086),
}

TABLE_2 = PaperMatrix(
    targets=tuple(TABLE_1),
    error_rates={
        "softmax1e-4": (1.0, 0.117, 0.227, 0.02, 0.039, 0.027),
        "softmax1e-2": (0.871, 1.0, 0.352, 0.359, 0.273, 0.098),
        "softmax1": (0.719, 0.762, 1.0, 0.481, 0.47, 0.344),
        "fc100-100-10": (0.289, 0.137, 0.211, 1.0, 0.066, 0.02),
        "fc200-200-10": (0.382, 0.14, 0.238, 0.203, 1.0, 0.027),
        "ae400-10": (0.234, 0.16, 0.248, 0.094, 0.066, 1.0),
        "gaussian-0.1": (0.05, 0.101, 0.183, 0.0, 0.0, 0.008),
        "gaussian-0.3": (0.156, 0.113, 0.227, 0.05, 0.043, 0.031),
    },
    distortion={name: row.distortion for name, row in TABLE_1.items()} | {"gaussian-0.1": 0.1, "gaussian-0.3": 0.3},
)

M1, M1_PRIME, M2 = "fc100-100-10@p1", "fc123-456-10@p1", "fc100-100-10@p2"
"""What the paper's M1, M1' and M2 are called here, except for the draw of the halves (``@p1@3``)."""

TABLE_3 = {
    M1: PaperSplitModel("M1", 0.0, 0.024, 0.02, 0.062),
    M1_PRIME: PaperSplitModel("M1'", 0.0, 0.025, 0.021, 0.059),
    M2: PaperSplitModel("M2", 0.023, 0.0, 0.021, 0.058),
}

TABLE_4 = PaperMatrix(
    targets=tuple(TABLE_3),
    error_rates={
        M1: (1.0, 0.262, 0.059),
        M1_PRIME: (0.0625, 1.0, 0.051),
        M2: (0.082, 0.082, 1.0),
        "gaussian-0.06": (0.022, 0.026, 0.024),
        f"amplified-0.1-{M1}": (1.0, 0.98, 0.43),
        f"amplified-0.1-{M1_PRIME}": (0.96, 1.0, 0.22),
        f"amplified-0.1-{M2}": (0.27, 0.5, 1.0),
        "gaussian-0.1": (0.026, 0.028, 0.027),
    },
    distortion={name: row.distortion for name, row in TABLE_3.items()}
    | {f"amplified-0.1-{name}": 0.1 for name in TABLE_3}
    | {"gaussian-0.06": 0.06, "gaussian-0.1": 0.1},
)


def repeated(config: Mapping[str, Any]) -> PaperMatrix | None:
    """The table of the paper that a study with these settings repeats: `TABLE_2`, `TABLE_4` or None.

    Beside any other study the paper's numbers would be about something else. Both tables are about MNIST and examples
    that box-constrained L-BFGS (``lbfgs``) finds towards classes chosen at random (the paper does not say how it chose
    them), made from training images for models of the whole training set (Table 2, and with it Table 1), or from test
    images for models of its two halves (Table 4, and with it Table 3); and ours must be of at least `FEWEST` images.
    """
    setting = {"dataset": "mnist", "attack": "lbfgs", "target": "random"}
    if any(config.get(key) != value for key, value in setting.items()) or config.get("examples", 0) < FEWEST:
        return None
    of_split = {("train", "train"): TABLE_2, ("test", "train"): TABLE_4}
    table = of_split.get((config.get("split", ""), config.get("train_split", "train")))
    return table if table and set(map(undrawn, config["models"])) & set(table.targets) else None


def undrawn(name: str) -> str:
    """A name without the seed by which the halves of the training set were drawn: ``…@p1@3`` → ``…@p1``."""
    return re.sub(r"@(p[12])@\d+", r"@\1", name)


def as_printed(rate: float) -> str:
    """A rate in per cent with the digits the paper prints: 0.0164 -> ``1.64``, 0.1 -> ``10``."""
    return f"{100 * rate:.4g}"
