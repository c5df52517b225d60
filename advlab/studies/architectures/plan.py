"""The plan of a sweep over architectures: its settings, validated."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from advlab import data
from advlab.command import also, listed, require_at_least
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.studies.architectures import space
from advlab.studies.architectures.space import Point, Space

SEARCHES = ("grid", "random", "optuna")
DRAWN_TRIALS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchitecturesConfig:
    """Settings that determine the trials of a sweep."""

    dataset: Annotated[str, also("--data")] = "mnist"
    """Data set: mnist or fashion_mnist."""
    architectures: str = "softmax,fc100-100-10,relu100-100-10"
    """Comma-separated: softmax, fcA-…-K (sigmoid), reluA-…-K, conv."""
    depths: str = ""
    """Comma-separated numbers of hidden layers: with --widths and --activations, every combination is added."""
    widths: str = ""
    """Comma-separated numbers of units per hidden layer, for --depths."""
    activations: str = "sigmoid,relu"
    """Comma-separated activations for --depths: sigmoid, relu."""
    decays: str = "1e-6,1e-4,1e-2,1"
    """Comma-separated weight decays λ; random and optuna draw log-uniformly between the smallest and the largest."""
    per_layer: bool = False
    """Use a separate λ for every layer; a grid then has all combinations."""
    seeds: int = 1
    """Number of seeds per setting, from --seed; models without hidden layers do not depend on the seed and get one."""
    search: str = "grid"
    """grid, random, or optuna (for small validation error and large minimum distortion)."""
    trials: int | None = None
    """Number of trials of random and optuna, 24 by default; a grid has one per point."""
    scheduler: Literal["none", "asha"] = "none"
    """asha stops trials whose validation error falls behind, at 10, 30 and 90 per cent of their budget."""
    epochs: int = 10
    """Epochs of networks trained by minibatches (relu…, conv)."""
    max_iterations: int = 300
    """Largest number of L-BFGS iterations of networks trained by full batches (softmax, fc…)."""
    examples: Annotated[int, also("--images")] = 200
    """Number of validation images whose minimum distortion is measured, from the first."""
    seed: int = 0
    """First seed of training, and seed of the search."""


@dataclass(frozen=True, slots=True)
class ArchitecturesPlan:
    """A validated sweep: settings, search space, images by split, and the points if they are known in advance."""

    config: ArchitecturesConfig
    settings: dict[str, Any]
    space: Space
    images: dict[str, Dataset]
    points: list[Point] | None

    @property
    def total(self) -> int:
        return self.settings["trials"] if self.points is None else len(self.points)


def prepare(config: ArchitecturesConfig) -> ArchitecturesPlan:
    """Check the settings and load the images; nothing is written. Raises a UserError for an invalid value."""
    if config.search not in SEARCHES:
        raise UserError(f"unknown search {config.search!r}; choose among {', '.join(SEARCHES)}.")
    if config.search == "grid" and config.trials is not None:
        raise UserError(f"--trials {config.trials} is only for random and optuna; a grid has all its points.")
    drawn = DRAWN_TRIALS if config.trials is None else config.trials
    require_at_least(config, trials=1, seeds=1, epochs=1, max_iterations=1, examples=1, seed=0)
    images = {split: data.load(config.dataset, split) for split in ("fit", "validation", "test")}
    if config.examples > len(images["validation"]):
        raise UserError(
            f"--examples {config.examples} is impossible: {config.dataset} has {len(images['validation'])} "
            "validation images; choose at most that."
        )
    space = _space(config, images["fit"])
    points = {"grid": space.grid, "random": lambda: space.random(drawn, config.seed), "optuna": lambda: None}
    settings = asdict(config) | {
        "architectures": list(space.architectures),
        "decays": list(space.decays),
        "trials": None if config.search == "grid" else drawn,
    }
    for merged in ("depths", "widths", "activations"):  # they are part of the architectures now
        del settings[merged]
    return ArchitecturesPlan(config, settings, space, images, points[config.search]())


def _space(config: ArchitecturesConfig, fit: Dataset) -> Space:
    depths, widths = (_numbers(option, getattr(config, option)) for option in ("depths", "widths"))
    if bool(depths) != bool(widths):
        raise UserError("--depths and --widths belong together; give both or none.")
    names = _listed(config.architectures)
    names += space.networks(_listed(config.activations), depths, widths, fit.num_classes)
    if not names:
        raise UserError("--architectures names none; give e.g. softmax,relu100-10.")
    decays = _decays(config.decays)
    if config.search != "grid" and len(decays) < 2:
        raise UserError(f"--decays {config.decays!r} is not a range to draw from; give the smallest and the largest λ.")
    seeds = tuple(range(config.seed, config.seed + config.seeds))
    return Space({name: space.layers(name, fit) for name in names}, decays, config.per_layer, seeds)


def _listed(text: str) -> list[str]:
    return list(dict.fromkeys(listed(text)))


def _numbers(option: str, text: str) -> list[int]:
    parts = _listed(text)
    for part in parts:
        if not (part.isdecimal() and int(part)):
            raise UserError(f"--{option} {part!r} is not a number of at least 1; write e.g. --{option} 1,2.")
    return [int(part) for part in parts]


def _decays(text: str) -> tuple[float, ...]:
    found: list[float] = []
    for part in _listed(text):
        try:
            found.append(float(part))
        except ValueError:
            found.append(-1.0)
        if not 0 < found[-1] < float("inf"):
            raise UserError(f"--decays: {part!r} is not a λ greater than 0; write e.g. 1e-6,1e-4,1e-2.")
    if not found:
        raise UserError("--decays names none; give e.g. 1e-6,1e-4,1e-2.")
    return tuple(dict.fromkeys(found))
