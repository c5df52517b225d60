"""The ablation table of adversarial training: means over seeds with t-intervals."""

import numpy as np
from rich.table import Table

from advlab.report.numbers import ruled
from advlab.store import Study
from advlab.transfer.seeds import estimate


def ablation_table(study: Study) -> Table:
    """Error and minimal distortion by variant, over the seeds that are done."""
    rows = study.store.read_table("results.parquet").to_pylist()
    held_out = "test" if study.config["split"] == "train" else "validation"
    levels = sorted({int(name.rpartition("_")[2]) for row in rows for name in row if name.startswith("distortion_")})
    title = f"{held_out.capitalize()} error, and median distance to the nearest misclassified point at each level"
    heads = ("seeds", f"{held_out} error %", "95% interval", "train error %", *(f"L2, level {k}" for k in levels), "s")
    table = ruled(title, ["variant"], heads)
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        error = estimate([100 * row[f"{held_out}_error"] for row in own])
        distances = [f"{np.mean([row[f'distortion_{k}'] for row in own]):.3f}" for k in levels]
        table.add_row(
            variant,
            str(len(own)),
            f"{error.mean:.3f}",
            f"{error.low:.3f} to {error.high:.3f}" if error.n > 1 else "one seed",
            f"{np.mean([100 * row['train_error'] for row in own]):.3f}",
            *distances,
            f"{np.mean([row['cpu_seconds'] for row in own]):.0f}",
        )
    return table
