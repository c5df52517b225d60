"""Folders of the studies that make up the paper's, relative to its own."""

from __future__ import annotations

FIRST_TABLES, LAST_TABLES = "tables_1_and_2", "tables_3_and_4"
READINGS, TARGETS = "readings", "targets"
POLICIES = ("nearest", "runner-up", "least-likely")
"""Ways to choose targets, one folder of ``TARGETS`` each."""
ALIGNMENT = "alignment.parquet"


def seed_folder(part: str, seed: int) -> str:
    """Where a part of the paper's study lies that is repeated over seeds."""
    return f"{part}/seed={seed}"
