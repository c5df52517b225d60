"""Tables and figures of a sweep over architectures: weight decay against error, distortion and transfer."""

import math
import shlex
from collections import defaultdict
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator
from rich.table import Table
from rich.text import Text

from advlab.report import Shown, canvas
from advlab.report.numbers import ruled
from advlab.report.palette import hue
from advlab.store import Study
from advlab.studies.architectures import trials
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.summary import Matrix
from advlab.studies.transfer.view import View

SHOWN = 12
"""Number of trials in the table, besides those of the Pareto front."""

Curve = dict[str, list[tuple[float, float]]]
"""By architecture, λ and a value for each trial."""


def show(study: Study, _width: int) -> Shown:
    finished = trials.measured(trials.read(study.store))
    models = shlex.quote(f"study:{study.store.uri}")  # the hint may be pasted into a shell
    return Shown(
        tables=[table(study)],
        files={"figures/weight_decay.png": figure(study)},
        hints=[f"all models in a transfer matrix: python sweeps/transfer_matrix.py --models {models}"],
        rows={"trials": study.store.read_shard(trials.TRIALS)},
        summary={"best": finished[0]["trial"], "validation_error": finished[0]["validation_error"]} if finished else {},
    )


def table(study: Study) -> Table:
    """The trials of least validation error, and those on the Pareto front of error and distortion, marked."""
    rows = trials.read(study.store)
    best, front = trials.measured(rows), {row["trial"] for row in trials.pareto_front(rows)}
    shown = [row for place, row in enumerate(best) if place < SHOWN or row["trial"] in front]
    stopped = sum(row["status"] == trials.STOPPED for row in rows)
    title = f"{len(best)} of {len(rows)} trials finished" + (f", {stopped} stopped early" if stopped else "")
    caption = "* on the Pareto front: no trial has both a smaller error and a larger distortion"
    headings = ("validation error %", "train error %", "mean RMS", "median L2", "seconds")
    title = f"Validation error and minimum distortion: {title}"
    printed = ruled(title, ["", "trial"], headings, caption=caption, caption_justify="left")
    for row in shown:
        printed.add_row(
            "*" if row["trial"] in front else "",
            Text(row["trial"]),
            f"{100 * row['validation_error']:.2f}",
            f"{100 * row['train_error']:.2f}",
            f"{row['mean_rms']:.4f}",
            f"{row['median_l2']:.3f}",
            f"{row['seconds']:.1f}",
        )
    return printed


def figure(study: Study, transfer: TransferStudy | None = None) -> bytes:
    """Weight decay against validation error and mean minimum distortion, one curve per architecture through the means.

    A transfer study of the sweep's models (``--models study:…``) adds a panel: the share of a model's examples that the
    other models misclassify.
    """
    rows = trials.measured(trials.read(study.store))
    panels: list[tuple[str, Curve]] = [
        ("validation error, %", _curves(rows, {row["trial"]: 100 * row["validation_error"] for row in rows})),
        ("mean minimum distortion, RMS", _curves(rows, {row["trial"]: row["mean_rms"] for row in rows})),
    ]
    if transfer is not None:
        panels.append(("misclassified by the other models, %", _curves(rows, _transferred(View(transfer).matrix))))
    with rc_context(canvas.STYLE):
        drawn = canvas.figure(4.0 * len(panels), 3.6)
        axes = drawn.subplots(1, len(panels), squeeze=False)[0]
        names = study.config["architectures"]
        for panel, (label, curves) in zip(axes, panels, strict=True):
            for position, name in enumerate(names):
                _draw(panel, curves.get(name, []), position, name)
            _finish(panel, label)
        if rows:
            axes[0].set_yscale("log")
            axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            canvas.plain(axes[0].yaxis)
            axes[0].legend(fontsize=8, handlelength=3)
        return canvas.png(drawn)


def _curves(rows: list[dict[str, Any]], values: dict[str, float]) -> Curve:
    curves: Curve = defaultdict(list)
    for row in rows:
        if row["trial"] in values:
            # the geometric mean of the λ of all layers
            decay = math.exp(np.mean(np.log(row["weight_decay"])))
            curves[row["architecture"]].append((decay, values[row["trial"]]))
    return curves


def _transferred(matrix: Matrix) -> dict[str, float]:
    """By source, the mean error in per cent of the other models on its examples."""
    found: dict[str, float] = {}
    for row in matrix.models:
        others = [cell.error_rate for cell in row.cells if cell is not None and not cell.is_self]
        if others:
            found[row.source] = 100 * float(np.mean(others))
    return found


def _draw(panel: Axes, curve: list[tuple[float, float]], position: int, name: str) -> None:
    """A dot for every trial, and a line through the means of those of about the same λ."""
    by_decay: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for decay, value in curve:
        by_decay[f"{decay:.2e}"].append((decay, value))
    means = sorted(tuple(np.mean(points, axis=0)) for points in by_decay.values())
    if means:
        panel.plot(*zip(*means, strict=True), label=name, linewidth=1.6, **canvas.look(position))
        panel.plot(*zip(*curve, strict=True), "o", color=hue(position), markersize=3.5, alpha=0.7)


def _finish(panel: Axes, label: str) -> None:
    panel.set(xscale="log", xlabel="weight decay λ")
    canvas.plain(panel.xaxis)
    panel.set_title(label, fontsize=10, loc="left")
    panel.grid()
