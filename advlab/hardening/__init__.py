"""Adversarial training from a continuously refreshed pool of examples at every level of a network."""

from advlab.hardening.levels import Levels
from advlab.hardening.pool import Batch, Pool

__all__ = ["Batch", "Levels", "Pool"]
