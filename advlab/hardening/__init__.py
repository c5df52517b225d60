"""Adversarial training from a continuously refreshed pool with a layer for every level of the network."""

from advlab.hardening.levels import Levels
from advlab.hardening.pool import Batch, Pool

__all__ = ["Batch", "Levels", "Pool"]
