"""Attacks: the closest image that a model misclassifies."""

from advlab.attacks.minimum_norm import minimum_norm
from advlab.attacks.result import Adversarial
from advlab.attacks.szegedy import szegedy_lbfgs

__all__ = ["Adversarial", "minimum_norm", "szegedy_lbfgs"]
