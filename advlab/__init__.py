"""A distributed laboratory for adversarial examples and their transfer.

Every model is attacked once, and every adversarial example is classified by every model; the predictions are stored in
Parquet, one row per (source, target, example).
"""

__version__ = "0.1.0"
