"""The ablation table of adversarial training: means over seeds with t-intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table
from scipy import stats

from advlab.store import Study


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of Student's t-interval; the half-width of a single value is infinite."""
    sample = np.asarray(values, dtype=float)
    if len(sample) < 2:
        return float(sample.mean()), float("inf")
    half = stats.t.ppf(0.5 + level / 2, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample))
    return float(sample.mean()), float(half)


def ablation_table(study: Study) -> Table:
    """Error and minimal distortion by variant, over the seeds that are done."""
    rows = study.store.read_table("results.parquet").to_pylist()
    held_out = "test" if study.config["split"] == "train" else "validation"
    levels = sorted({int(name.rpartition("_")[2]) for row in rows for name in row if name.startswith("distortion_")})
    title = f"{held_out.capitalize()} error, and median distortion to the nearest misread point at each level"
    table = Table(box=box.HORIZONTALS, title=title, title_justify="left", title_style="bold")
    table.add_column("variant", no_wrap=True)
    heads = ("seeds", f"{held_out} error %", "95% interval", "train error %", *(f"L2, level {k}" for k in levels), "s")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant]
        mean, half = interval([100 * row[f"{held_out}_error"] for row in own])
        distances = [f"{np.mean([row[f'distortion_{k}'] for row in own]):.3f}" for k in levels]
        table.add_row(
            variant,
            str(len(own)),
            f"{mean:.3f}",
            f"{mean - half:.3f} to {mean + half:.3f}" if np.isfinite(half) else "one seed",
            f"{np.mean([100 * row['train_error'] for row in own]):.3f}",
            *distances,
            f"{np.mean([row['cpu_seconds'] for row in own]):.0f}",
        )
    return table
