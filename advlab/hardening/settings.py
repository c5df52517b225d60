"""Settings of a training run, and the named variants that the ablation compares."""

import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from advlab.errors import UserError
from advlab.hardening.pool import Replacement

Name = Literal["one-step", "minimum-norm", "lbfgs", "gaussian"]
NAMES: tuple[str, ...] = get_args(Name)
"""``one-step`` (a gradient step of a given L2 size), ``minimum-norm``, ``lbfgs`` (the paper's), and ``gaussian``, a
control: noise of the size of ``one-step``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All settings of a training run, except its seed and data."""

    network: str | None = None
    """Architecture: that of a zoo model such as conv or fc100-100-10, or python:MODULE:FACTORY, with new initial
    weights; by default the fully connected network of the options hidden, activation and dropout."""
    hidden: tuple[int, ...] = (100, 100)
    """Units of the hidden layers."""
    activation: str = "relu"
    """relu, sigmoid or tanh."""
    epochs: int = 60
    """Passes over the clean images."""
    batch_size: int = 125
    """Clean images per step; each attacked level adds as many drawn from the pool."""
    learning_rate: float = 2e-3
    """Peak of Adam's learning rate: it rises for a tenth of the steps, then falls to zero along half a cosine."""
    weight_decay: float = 0.0
    """λ in (λ/2) Σ w²."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit; a network given by name has its own dropout."""
    attack: Name = "one-step"
    """Attack that makes adversarial examples: one-step, minimum-norm, lbfgs or gaussian (a control)."""
    levels: tuple[int, ...] = ()
    """Levels that are attacked: 0 is the input, k the output of the k-th activation (hidden layer)."""
    sizes: tuple[float, ...] = (0.11, 0.03, 0.03)
    """L2 size of a one-step perturbation at each level, relative to the mean norm of the activations there."""
    mixing: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Weight of each level's loss; the loss of the clean images has weight 1."""
    capacity: int = 1000
    """Examples that the pool holds per level."""
    refresh: int = 125
    """Clean images of each batch that are attacked in synchronous mode; they replace as many examples of each level."""
    replacement: Replacement = "random"
    """Examples that new ones replace: random, oldest or easiest."""
    max_age: int | None = None
    """Age in steps from which an example is no longer drawn."""
    virtual: float = 0.0
    """L2 size of Miyato's virtual adversarial perturbation of the image, relative to the mean norm; 0 for none."""

    def __post_init__(self) -> None:
        if self.network is None:
            self.require_levels(len(self.hidden) + 1)
        elif self.dropout:
            raise UserError(
                f"`dropout` {self.dropout:g} is for the network that `hidden` describes; {self.network!r} has its own: "
                "leave out `dropout`, and the variant of that name among the `variants`."
            )
        if self.attack not in NAMES:
            raise UserError(f"unknown attack {self.attack!r}; choose one of {', '.join(NAMES)}.")
        if min(self.epochs, self.batch_size, self.refresh) < 1:
            raise UserError("`epochs`, `batch_size` and `refresh` must each be at least 1; raise them.")

    def require_levels(self, count: int) -> None:
        """Raise a UserError unless a network of ``count`` levels has those in use, each with a size and a weight."""
        if self.levels and not all(0 <= level < count for level in self.levels):
            raise UserError(f"`levels` {self.levels} are impossible; this network has levels 0 to {count - 1}.")
        if self.levels and min(len(self.sizes), len(self.mixing)) < count:
            raise UserError(
                f"{len(self.sizes)} sizes for {count} levels; give one of `sizes` and of `mixing` per level."
            )

    def decisive(self) -> dict[str, Any]:
        """The plain values that identify this run; the network is among them if it is given by name."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        if self.network is None:
            del values["network"]
        return values


def _layer(level: int) -> dict[str, Any]:
    return {"levels": (level,), "sizes": tuple(0.1 if k == level else 0.0 for k in range(max(level + 1, 3)))}


EVERY = "every"
"""In place of levels: all levels of the network."""
VARIANTS: dict[str, dict[str, Any]] = {
    "weight-decay": {"weight_decay": 1e-4},
    "dropout": {"dropout": 0.2},
    "input": {"levels": (0,), "sizes": (0.11, 0.0, 0.0)},
    "layer-1": _layer(1),
    "layer-2": _layer(2),
    "all": {"levels": EVERY},
    "gaussian": {"levels": EVERY, "attack": "gaussian"},
    "virtual": {"virtual": 0.11},
}
"""The variants of the ablation, besides layer-K for any other K: changes to the defaults in ``Settings``. How they were
chosen: docs/HARDENING.md."""


def variant(name: str, base: Settings, levels: int | None = None) -> Settings:
    """The settings of a variant: of one of `VARIANTS`, or ``layer-K``.

    ``levels`` is the number of levels of the network, by default of the one that ``base.hidden`` describes; if there
    are fewer sizes or weights, the last one is repeated. Raises a UserError for an unknown variant, or missing levels.
    """
    if not is_variant(name):
        raise UserError(f"unknown variant {name!r}; choose among {', '.join(VARIANTS)}, or layer-K.")
    count = len(base.hidden) + 1 if levels is None else levels
    chosen = dict(VARIANTS[name] if name in VARIANTS else _layer(int(name.removeprefix("layer-"))))
    if chosen.get("levels") == EVERY:
        chosen["levels"] = tuple(range(count))
    for kind in ("sizes", "mixing") if "levels" in chosen else ():
        given = chosen.get(kind, getattr(base, kind))
        chosen[kind] = given + given[-1:] * (count - len(given))
    result = replace(base, **chosen)
    result.require_levels(count)
    return result


def is_variant(name: str) -> bool:
    return name in VARIANTS or re.fullmatch(r"layer-[1-9]\d*", name) is not None
