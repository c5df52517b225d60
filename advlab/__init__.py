"""A distributed laboratory for adversarial examples and their transfer."""

__version__ = "0.1.0"
