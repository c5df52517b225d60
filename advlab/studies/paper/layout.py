"""Folders of the studies of the paper's experiments, relative to the common folder."""

from __future__ import annotations

FIRST_TABLES, LAST_TABLES = "tables_1_and_2", "tables_3_and_4"
READINGS, TARGETS = "readings", "targets"
POLICIES = ("nearest", "runner-up", "least-likely")
"""Target policies, one folder of ``TARGETS`` each."""
ALIGNMENT = "alignment.parquet"


def seed_folder(part: str, seed: int) -> str:
    """The folder of one seed of a repeated study."""
    return f"{part}/seed={seed}"
