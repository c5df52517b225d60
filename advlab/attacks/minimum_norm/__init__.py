"""Placeholder overview."""

from advlab.attacks.minimum_norm.attack import minimum_norm

__all__ = ["minimum_norm"]
