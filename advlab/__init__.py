"""A distributed laboratory for adversarial examples and their transfer.

Models go in; every model is attacked once; every attacked example is shown to every model; the answers lie in
Parquet, one row per (source, target, example).
"""

__version__ = "0.1.0"
