"""What decides a network: one frozen record per training run, and the named variants that are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

from advlab.errors import UserError
from advlab.hardening.attack import NAMES, Name
from advlab.hardening.pool import Replacement


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A training run, its seed and data excepted."""

    hidden: tuple[int, ...] = (100, 100)
    """Units of the hidden layers."""

    activation: str = "relu"
    """relu, sigmoid or tanh."""

    epochs: int = 60
    """Passes over the clean images."""

    batch_size: int = 125
    """Clean images per step; each attacked level adds as many drawn from the pool."""

    learning_rate: float = 2e-3
    """Peak of Adam's learning rate: a tenth of the steps to get there, then half a cosine down to nothing."""

    weight_decay: float = 0.0
    """λ in (λ/2) Σ w²."""

    dropout: float = 0.0
    """Probability of dropping a hidden unit."""

    attack: Name = "one-step"
    """How adversarial examples are made."""

    levels: tuple[int, ...] = ()
    """Where they are made: 0 is the input, k the output of hidden layer k."""

    sizes: tuple[float, ...] = (0.11, 0.03, 0.03)
    """L2 size of a one-step perturbation at each level, as a share of the mean norm of the activations there."""

    mixing: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Weight of each level's loss; that of the clean images is 1."""

    capacity: int = 1000
    """Examples that the pool holds per level."""

    refresh: int = 125
    """Clean images of each batch that the synchronous generator attacks, to replace as many of each level."""

    replacement: Replacement = "random"
    """What gives way to new examples: random, oldest or easiest."""

    max_age: int | None = None
    """Steps after which an example is no longer drawn."""

    virtual: float = 0.0
    """L2 size of Miyato's virtual adversarial perturbation of the image, as a share of the mean norm; none when 0."""

    def __post_init__(self) -> None:
        known = len(self.hidden) + 1
        if self.levels and not all(0 <= level < known for level in self.levels):
            raise UserError(f"levels {self.levels} are not all there; this network has levels 0 to {known - 1}.")
        if self.levels and min(len(self.sizes), len(self.mixing)) < known:
            raise UserError(f"{len(self.sizes)} sizes for {known} levels; give one --sizes and --mixing per level.")
        if self.attack not in NAMES:
            raise UserError(f"unknown attack {self.attack!r}; choose one of {', '.join(NAMES)}.")
        if min(self.epochs, self.batch_size, self.refresh) < 1:
            raise UserError("--epochs, --batch-size and --refresh must each be at least 1; raise them.")


VARIANTS: dict[str, dict[str, object]] = {
    "weight-decay": {"weight_decay": 1e-4},
    "dropout": {"dropout": 0.2},
    "input": {"levels": (0,), "sizes": (0.11, 0.0, 0.0)},
    "layer-1": {"levels": (1,), "sizes": (0.0, 0.1, 0.0)},
    "layer-2": {"levels": (2,), "sizes": (0.0, 0.0, 0.1)},
    "all": {"levels": (0, 1, 2)},
    "gaussian": {"levels": (0, 1, 2), "attack": "gaussian"},
    "virtual": {"virtual": 0.11},
}
"""The rows of the ablation; what they do not say is as in ``Settings``. What was chosen how is in docs/HARDENING.md."""


def variant(name: str, base: Settings) -> Settings:
    """The settings of a variant.

    Raises:
        UserError: an unknown variant, or levels that the network does not have.
    """
    if name not in VARIANTS:
        raise UserError(f"unknown variant {name!r}; choose among {', '.join(VARIANTS)}.")
    return replace(base, **VARIANTS[name])  # type: ignore[arg-type]
