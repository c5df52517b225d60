"""Table 5 in a terminal and as a figure: singular spectra of layers, and bounds beside measured amplification."""

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from rich.table import Table

from advlab.report import Shown, canvas
from advlab.report.numbers import ruled
from advlab.report.palette import HUES, INK, MUTED
from advlab.store import Study

FLOOR = 2e-5
"""Singular values below this share of the largest are drawn there."""

PAPER = {
    "3 x 11 x 11 x 96": (0.1, 20.0),
    "96 x 5 x 5 x 256": (0.06, 10.0),
    "256 x 3 x 3 x 384": (0.01, 7.0),
    "384 x 3 x 3 x 384": (5e-5, 7.3),
    "384 x 3 x 3 x 256": (0.03, 11.0),
    "9216 x 4096": (0.09, 3.12),
    "4096 x 4096": (1e-4, 4.0),
    "4096 x 1000": (0.25, 4.0),
}
"""Table 5: lower and upper bound of the trained AlexNet's layers, by size."""


def show(study: Study, _width: int) -> Shown:
    rows = {"layers": study.store.read_table("layers.parquet")}
    return Shown(tables=[table(study)], files={"figures/spectra.png": figure(study)}, rows=rows)


def read(study: Study) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The rows of a spectral study, and the quantiles of each layer's singular values [layers, quantiles]."""
    rows = study.store.read_table("layers.parquet").to_pylist()
    values = study.store.read_table("spectra.parquet")["value"].to_numpy()
    return rows, values.reshape(len(rows), -1)


def table(study: Study) -> Table:
    rows, _ = read(study)
    title = f"Frame bounds of {study.config['model']}"
    bounds = ("lower", "upper", "padded", "measured", "printed", "paper", "product", "Jacobian", "adversarial")
    shown = ruled(title, ["layer", "size"], ["stride", *bounds])
    for row in rows:
        low, high = PAPER.get(row["size"], (None, None))
        paper = "" if low is None else f"{number(low)}–{number(high)}"
        shown.add_row(
            row["name"],
            row["size"],
            str(row["stride"]),
            *(number(row[key]) for key in ("lower", "upper", "upper_padded", "norm_measured", "printed_upper")),
            paper,
            *(number(row[key]) for key in ("product_bound", "jacobian_gain", "adversarial_gain")),
        )
    return shown


def number(value: float | None) -> str:
    """Three significant digits."""
    return "–" if value is None or np.isnan(value) else "∞" if np.isinf(value) else f"{value:.3g}"


def figure(study: Study) -> bytes:
    """The spectrum of every layer on a logarithmic axis, and the bound of the network beside measurements."""
    rows, spectra = read(study)
    with rc_context(canvas.STYLE):
        drawn = canvas.figure(11.5, 1.6 + 0.42 * len(rows))
        left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
        _spectra(left, rows, spectra)
        _gap(right, rows)
        left.set_yticks(range(len(rows)), [f"{row['name']}\n{row['size']}" for row in rows], fontsize=8)
        left.set_ylim(len(rows) - 0.4, -0.9)
        return canvas.png(drawn)


def _spectra(axes: Axes, rows: list[dict[str, Any]], spectra: np.ndarray) -> None:
    largest = float(spectra.max() or 1.0)
    least = min([float(spectra.min()), *(row["lower"] for row in rows)])
    floor = max(FLOOR * largest, least / 1.5)
    edges = np.linspace(np.log10(floor), np.log10(1.6 * largest), 120)
    for position, values in enumerate(spectra):
        density, _ = np.histogram(np.log10(np.maximum(values, floor)), bins=edges)
        height = density / max(1, density.max()) * 0.72
        axes.stairs(position + 0.25 - height, 10**edges, baseline=position + 0.25, fill=True, color=HUES[0], alpha=0.75)
    at = np.arange(len(rows)) + 0.25
    for key, marker, colour, label in (
        ("lower", "|", INK, "lower and upper frame bound"),
        ("upper", "|", INK, None),
        ("upper_padded", "^", HUES[2], "upper bound with the layer's padding"),
        ("printed_upper", "x", HUES[1], "formula as printed (strided layers)"),
    ):
        chosen = [row[key] if key != "printed_upper" or row["stride"] > 1 else np.nan for row in rows]
        if not np.isnan(chosen).all():
            axes.plot(np.maximum(chosen, floor), at, marker, color=colour, label=label, markersize=7, linestyle="none")
    _finish(axes, "singular values of the layer")


def _gap(axes: Axes, rows: list[dict[str, Any]]) -> None:
    at = np.arange(len(rows))
    for key, marker, colour, label in (
        ("product_bound", "s", MUTED, "product bound"),
        ("jacobian_gain", "o", HUES[0], "largest Jacobian at an image"),
        ("adversarial_gain", "D", HUES[1], "adversarial examples"),
    ):
        values = np.array([row[key] if row[key] is not None else np.nan for row in rows], dtype=float)
        values[~np.isfinite(values) | (values <= 0)] = np.nan
        if not np.isnan(values).all():
            axes.plot(values, at, marker=marker, color=colour, label=label, markersize=4.5, linewidth=1.4)
    _finish(axes, "amplification from the image to here")


def _finish(axes: Axes, label: str) -> None:
    axes.set(xscale="log", xlabel=label)
    canvas.plain(axes.xaxis)
    axes.grid(axis="x")
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
