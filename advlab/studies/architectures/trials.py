"""The rows of a sweep over architectures, one per trial, and the selection of the best."""

import json
from typing import Any

import pyarrow as pa

from advlab.models import Checkpoint
from advlab.store import Store, weights_file

TRIALS = "trials.parquet"

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
"""Trained, measured and stored; stopped by the scheduler; ended by an error."""

_TEXT, _WHOLE, _REAL = pa.string(), pa.int64(), pa.float64()
SCHEMA = pa.schema([
    ("trial", _TEXT), ("architecture", _TEXT), ("weight_decay", pa.list_(_REAL)), ("seed", _WHOLE), ("status", _TEXT),
    ("validation_error", _REAL), ("train_error", _REAL),
    ("mean_l2", _REAL), ("median_l2", _REAL), ("mean_rms", _REAL), ("median_rms", _REAL),
    ("attacked", _WHOLE), ("attack_success_rate", _REAL), ("percent", _WHOLE), ("epochs", _WHOLE),
    ("iterations", _WHOLE), ("parameters", _WHOLE), ("training_seconds", _REAL), ("seconds", _REAL),
    ("fingerprint", _TEXT), ("checkpoint", _TEXT), ("recipe", _TEXT), ("trial_id", _TEXT), ("reason", _TEXT),
])  # fmt: skip
"""The columns are documented in docs/ARCHITECTURES.md."""


def row(trained: Checkpoint) -> dict[str, Any]:
    """The row of a finished trial, from its checkpoint."""
    recipe, report = trained.recipe, trained.report
    return {
        **{column: report[column] for column in SCHEMA.names if column in report},
        "trial": recipe.name,
        "architecture": recipe.name.partition("λ")[0],
        "weight_decay": list(recipe.trainer_arguments["weight_decay"]),
        "seed": recipe.seed,
        "status": FINISHED,
        "percent": 100,
        "epochs": recipe.trainer_arguments.get("epochs"),
        "fingerprint": trained.fingerprint,
        "checkpoint": weights_file(recipe.name),
        "recipe": json.dumps(recipe.to_json()),
    }


def read(store: Store) -> list[dict[str, Any]]:
    """The rows of a sweep so far; a UserError if the file is damaged, see ``Store.read_shard``."""
    return store.read_shard(TRIALS).to_pylist() if store.exists(TRIALS) else []


def write(store: Store, rows: list[dict[str, Any]]) -> None:
    """Write the rows; columns that a row lacks are null."""
    store.write_table(TRIALS, pa.Table.from_pylist(rows, schema=SCHEMA))


def measured(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The finished trials whose distortion could be measured, best validation error first, ties by distortion."""
    finished = [row for row in rows if row["status"] == FINISHED and row["mean_rms"] is not None]
    return sorted(finished, key=lambda row: (row["validation_error"], -row["mean_rms"], row["trial"]))


def pareto_front(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials that no other beats in both: smaller validation error, larger mean minimum distortion."""
    front: list[dict[str, Any]] = []
    for candidate in measured(rows):
        if not front or candidate["mean_rms"] > front[-1]["mean_rms"]:
            front.append(candidate)
    return front
