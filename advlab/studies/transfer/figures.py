"""Figures of a transfer study, each as PNG bytes."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.patches import Rectangle

from advlab.report import canvas
from advlab.report.numbers import percent
from advlab.report.palette import INK, MUTED, heat, hue
from advlab.studies.transfer import paper_numbers
from advlab.studies.transfer.summary import Matrix, short
from advlab.studies.transfer.view import View
from advlab.transfer.controls import describe
from advlab.transfer.seeds import Estimate

_ROWS, _PAIRS_PER_ROW = 6, 5  # of a panel of Figure 7
_PANEL_WIDTH = 4.2  # inches
_COLOURS = 3  # channels of a photo
_GAP = 0.35  # rows, between clean images, models and controls


def draw(view: View) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Every figure of a study's ``figures/`` folder (file stem -> PNG), and the panels of Figure 7 (source -> PNG)."""
    study = view.study
    drawn = {
        "matrix": matrix_heat_map(view),
        "distortion_histograms": distortion_histograms(view),
        "distortion_curves": distortion_curves(view),
    }
    if study.dataset.subset(slice(1)).images.shape[1] == _COLOURS and (photos := figure_5(view)) is not None:
        drawn["figure_5"] = photos
    pairs = {source: _pairs(view, source) for source in figure_7_sources(view.matrix)}
    drawn["figure_7"] = figure_7(view.matrix, pairs)
    return drawn, {source: figure_7(view.matrix, {source: mosaic}) for source, mosaic in pairs.items()}


def matrix_heat_map(view: View) -> bytes:
    """The matrix as a heat map with its numbers: clean images, models, controls, a gap between them."""
    matrix = view.matrix
    rows = [(row, gap) for gap, group in enumerate(matrix.groups) for row in group]
    rows_at = [position + _GAP * gap for position, (_, gap) in enumerate(rows)]
    with rc_context(canvas.STYLE):
        figure = canvas.figure(2.3 + 1.0 * len(matrix.targets), 1.5 + 0.52 * len(rows))
        axes = figure.add_subplot()
        for y, (row, _) in zip(rows_at, rows, strict=True):
            for column, cell in enumerate(row.cells):
                background, ink = ("#ffffff", MUTED) if cell is None else heat(cell.error_rate)
                corner = column - 0.48, y - 0.47
                axes.add_patch(Rectangle(corner, 0.96, 0.94, facecolor=background, edgecolor="none"))
                text = "–" if cell is None else percent(cell.error_rate)
                weight = "bold" if cell is not None and cell.is_self else "normal"
                axes.text(column, y, text, ha="center", va="center", color=ink, fontsize=11, fontweight=weight)
        axes.set(xlim=(-0.5, len(matrix.targets) - 0.5), ylim=(max(rows_at, default=0) + 0.5, -0.5))
        targets = [short(target) for target in matrix.targets]
        axes.set_xticks(range(len(targets)), targets, rotation=25, ha="left", rotation_mode="anchor")
        axes.set_yticks(rows_at, [short(row.source) for row, _ in rows])
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelcolor=INK)
        axes.spines[:].set_visible(False)
        axes.set(ylabel="examples made for", xlabel="misclassified by the model shown them, %")
        return canvas.png(figure)


def amplification_curves(curve: Callable[[str, str], list[tuple[float, Estimate]]], models: Sequence[str]) -> bytes:
    """Errors of every model on the examples of each, against the RMS to which they are amplified.

    ``curve`` maps (source, target) to points (RMS, error rate over seeds) in order.
    """
    columns = 3
    rows = -(-len(models) // columns)
    with rc_context(canvas.STYLE):
        figure = canvas.figure(_PANEL_WIDTH * columns, 3.0 * rows)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, source in zip(panels.flat, models, strict=False):
            for position, target in enumerate(models):
                points = curve(source, target)
                x, y = [rho for rho, _ in points], [100 * found.mean for _, found in points]
                axes.plot(x, y, label=target, linewidth=2.6 if target == source else 1.4, **canvas.look(position))
                if all(found.n > 1 for _, found in points):
                    low, high = ([100 * getattr(found, end) for _, found in points] for end in ("low", "high"))
                    axes.fill_between(x, low, high, color=hue(position), alpha=0.15, linewidth=0)
            axes.set_title(f"examples of {source}", loc="left", fontsize=10)
            axes.set(ylim=(0, 102), ylabel="error %", xlabel="RMS after amplification")
            axes.label_outer()
        for axes in panels.flat[len(models) :]:
            axes.set_visible(False)
        handles, labels = panels.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(models))
        return canvas.png(figure)


def distortion_histograms(view: View) -> bytes:
    """The RMS distortions of each attacked model, medians marked, Gaussian noise as dashed lines."""
    matrix = view.matrix
    samples = {row.source: view.sizes(row.source)["rms"].to_numpy() for row in matrix.models}
    largest = max((float(np.quantile(values, 0.995)) for values in samples.values() if len(values)), default=0.0)
    bins = np.linspace(0.0, 1.05 * largest or 0.1, 61)
    noise = {
        row.source.removeprefix("gaussian-"): row.mean_rms
        for row in matrix.controls
        if row.source.startswith("gaussian-") and row.mean_rms is not None and row.mean_rms < bins[-1]
    }
    with rc_context(canvas.STYLE):
        figure = canvas.figure(canvas.CHART_WIDTH, 0.7 + 0.68 * max(1, len(samples)))
        panels = figure.subplots(max(1, len(samples)), 1, sharex=True, squeeze=False)[:, 0]
        for position, (panel, (source, values)) in enumerate(zip(panels, samples.items(), strict=False)):
            colour = hue(position)
            panel.hist(np.minimum(values, bins[-1]), bins=bins, color=colour, alpha=0.85, edgecolor="none")
            panel.set_yticks([])
            panel.spines["left"].set_visible(False)
            panel.set_ylabel(short(source), rotation=0, ha="right", va="center", color=INK)
            for level in noise.values():
                panel.axvline(level, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
            if len(values):
                median = float(np.median(values))
                panel.axvline(median, color=INK, linewidth=1.6)
                place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "xytext": (5, 0), "va": "top"}
                place |= {"textcoords": "offset points", "fontsize": 9}
                place["bbox"] = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
                panel.annotate(f"median {median:.3f}", (median, 0.95), **place)
            panel.set_xlim(0, bins[-1])
        dashed = f"; dashed: Gaussian noise of stddev {' and '.join(noise)}" if noise else ""
        panels[-1].set_xlabel(f"distortion, RMS per pixel{dashed}")
        return canvas.png(figure)


def distortion_curves(view: View) -> bytes:
    """Share of a model's examples that fool it within a given RMS distortion, one curve per model."""
    matrix = view.matrix
    with rc_context(canvas.STYLE):
        figure = canvas.figure(canvas.CHART_WIDTH, 4.4)
        axes = figure.add_subplot()
        for position, row in enumerate(matrix.models):
            table = view.sizes(row.source)
            fooled = np.sort(table["rms"].to_numpy()[table["success"].to_numpy(zero_copy_only=False)])
            share = 100 * np.arange(len(fooled) + 1) / max(1, len(table))
            look = canvas.look(position)
            axes.step(np.r_[0.0, fooled], share, where="post", label=short(row.source), linewidth=1.8, **look)
        axes.set(xlim=(0, None), ylim=(0, 102))
        axes.set(xlabel="distortion allowed, RMS per pixel", ylabel="examples that fool their model, %")
        axes.grid()
        if matrix.models:
            axes.legend(loc="lower right", handlelength=3)
        return canvas.png(figure)


def figure_7(matrix: Matrix, pairs: Mapping[str, np.ndarray | None]) -> bytes:
    """The paper's Figure 7: odd columns the originals, even columns their distorted counterparts.

    ``pairs`` maps each source to the mosaic of its pairs, one panel each; None for a source without examples.
    """
    across = min(3, max(1, len(pairs)))
    down = -(-len(pairs) // across) or 1
    with rc_context(canvas.STYLE):
        figure = canvas.figure(_PANEL_WIDTH * across, (_PANEL_WIDTH * _ROWS / 10 + 0.35) * down)
        panels = figure.subplots(down, across, squeeze=False, gridspec_kw={"wspace": 0.06}).ravel()
        for panel in panels:
            panel.set_axis_off()
        for panel, (source, mosaic) in zip(panels, pairs.items(), strict=False):
            if mosaic is not None:
                grey = mosaic.shape[-1] == 1
                panel.imshow(mosaic[..., 0] if grey else mosaic, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            panel.set_title(f"{short(describe(source))}: {_accuracy(matrix, source)}", fontsize=11, loc="left")
        return canvas.png(figure, bbox_inches="tight", pad_inches=0.06)


def figure_5(view: View, source: str | None = None, rows: int = 5) -> bytes | None:
    """The paper's Figure 5: photos classified correctly, what changes in them, adversarial examples.

    The change is magnified tenfold, shifted by 128 of 255 and clamped, as in the paper; where that leaves nothing to be
    seen, a column more has it magnified by as much as shows it. A PNG, of at most so many ``rows``, of the model
    ``source`` or of the first that an example fools; None where no example fools its model.
    """
    if source is None:
        attacked = (figure_5(view, row.source, rows) for row in view.matrix.models)
        return next((figure for figure in attacked if figure is not None), None)
    study, table = view.study, view.first(source)
    size = table["rms"].to_numpy()
    fooled = (size > 0) & table["success"].to_numpy(zero_copy_only=False)
    if not fooled.any():
        return None
    shown = table.take(np.flatnonzero(fooled)[:rows])
    after = np.moveaxis(study.images(shown), 1, -1)
    before = np.moveaxis(study.clean_images(shown["index"].to_numpy()), 1, -1)
    change = after - before
    factors = sorted({canvas.MAGNIFIED, canvas.magnification(change)})
    middle = [(128 / 255 + factor * change).clip(0, 1) for factor in factors]
    columns = ["photo", *(f"change × {factor:,.0f}" for factor in factors), "adversarial"]
    tiles = np.stack([before, *middle, after], 1).reshape(-1, *after.shape[1:])
    mean = float(size[fooled].mean())
    title = f"{short(source)}: {', '.join(columns)}\nmean distortion of {fooled.sum()} examples {mean:.6f}"
    if "alexnet" in source:  # the paper's network
        title += " (the paper's, of {examples}: {distortion:.6f})".format_map(paper_numbers.FIGURE_5)
    return canvas.mosaic(tiles, len(columns), title)


def figure_7_sources(matrix: Matrix) -> list[str]:
    """The panels of Figure 7: every attacked model, then the strongest Gaussian noise."""
    noise = [row for row in matrix.controls if row.source.startswith("gaussian-")]
    strongest = max(noise, key=lambda row: row.mean_rms or 0.0, default=None)
    return [row.source for row in matrix.models] + ([strongest.source] if strongest else [])


def _pairs(view: View, source: str, rows: int = _ROWS) -> np.ndarray | None:
    """[H, W, C] mosaic of ``rows`` × 5 pairs (original, distorted); None without examples."""
    study, table = view.study, view.first(source)
    fools = study.is_control(source) | table["success"].to_numpy(zero_copy_only=False)
    distorted = (table["rms"].to_numpy() > 0) & fools
    picked = _by_class_in_turn(table["label"].to_numpy(), np.flatnonzero(distorted), rows * _PAIRS_PER_ROW)
    if not len(picked):
        return None
    shown = table.take(picked)
    after = np.moveaxis(study.images(shown), 1, -1)
    before = np.moveaxis(study.clean_images(shown["index"].to_numpy()), 1, -1)
    gap = max(1, after.shape[2] // 14)
    between = np.ones_like(after[:, :, :gap])
    pairs = np.concatenate([before, between, after], 2).clip(0, 1)
    return canvas.tiled(pairs, _PAIRS_PER_ROW, (gap, 2 * gap))


def _by_class_in_turn(labels: np.ndarray, candidates: np.ndarray, wanted: int) -> np.ndarray:
    """The first ``wanted`` candidates, one of each class before the second of any."""
    turns: defaultdict[int, Iterator[int]] = defaultdict(count)
    order = np.lexsort((labels[candidates], [next(turns[label]) for label in labels[candidates].tolist()]))
    return candidates[order[:wanted]]


def _accuracy(matrix: Matrix, source: str) -> str:
    """What a panel's caption says of its examples: the accuracy of their own model, or of all models."""
    cells = [cell for row in matrix.rows if row.source == source for cell in row.cells if cell is not None]
    own = [cell for cell in cells if cell.is_self] or cells
    rates = sorted(1 - cell.error_rate for cell in own)
    if not rates:
        return "accuracy unknown"
    low, high = percent(rates[0], 0), percent(rates[-1], 0)
    return f"accuracy {low}%" if low == high else f"accuracy {low}–{high}%"
