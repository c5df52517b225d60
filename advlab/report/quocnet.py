"""QuocNet's filters, its car classifier, and the paper's Figure 6."""

from __future__ import annotations

import numpy as np
from matplotlib import rc_context
from rich.table import Table

from advlab.errors import UserError
from advlab.models.quocnet import preset
from advlab.report.figures import _STYLE, _figure, _png
from advlab.results import Study

FILTERS, ATTACKED = "filters.parquet", "attacked.parquet"
MAGNIFIED = 10
"""Factor by which Figure 6 shows the difference."""
_ACROSS = 24
_SHOWN = 288


def table(study: Study) -> Table:
    """What the run came to."""
    result = study.manifest["result"]
    shown = Table(title=f"{study.config['model']} on {study.config['data']}")
    shown.add_column("what")
    shown.add_column("value", justify="right")
    shown.add_row("cost per image, last 50 steps", f"{result['loss']:.2f}")
    shown.add_row("seconds per step, median", f"{result['seconds_per_step']:.3f}")
    if "detection" in result:
        found = result["detection"]
        for name, low, high, text in (
            ("auc", "auc_low", "auc_high", "AUC"),
            ("balanced_accuracy", "balanced_low", "balanced_high", "balanced accuracy"),
        ):
            shown.add_row(
                f"{study.config['positive']}, held out: {text}",
                f"{found[name]:.3f} [{found[low]:.3f}, {found[high]:.3f}]",
            )
    if "attacked" in result:
        shown.add_row("adversarial examples", f"{result['fooled']} of {result['attacked']}")
        shown.add_row("their mean distortion, RMS", f"{result['mean_rms']:.5f}")
    return shown


def filters(study: Study) -> bytes:
    """Filters of the first stage, those of a place side by side; PNG.

    All on one scale, so that filters that learning has switched off look grey.
    """
    flat = _matrix(study, FILTERS, "filter")[:_SHOWN]
    channels = preset(study.config["model"]).channels
    side = round((flat.shape[1] / channels) ** 0.5)
    tiles = np.moveaxis(flat.reshape(-1, channels, side, side), 1, -1)
    largest = np.quantile(np.abs(tiles), 0.995)
    return _mosaic((0.5 + 0.5 * tiles / largest).clip(0, 1), _ACROSS, f"first-stage filters, {side} × {side} pixels")


def figure_6(study: Study, rows: int = 8) -> bytes:
    """The paper's Figure 6: read rightly, no longer read so, and the magnified absolute difference; PNG.

    Raises:
        UserError: nothing was attacked.
    """
    size = preset(study.config["model"]).size
    shape = (-1, preset(study.config["model"]).channels, size, size)
    clean, attacked = (
        np.moveaxis(_matrix(study, ATTACKED, name).reshape(shape), 1, -1) for name in ("original", "image")
    )
    success = study.store.read_table(ATTACKED, ["success"])["success"].to_numpy(zero_copy_only=False)
    clean, attacked = clean[success][: 2 * rows], attacked[success][: 2 * rows]
    change = (MAGNIFIED * np.abs(attacked - clean)).clip(0, 1)
    triples = np.stack([clean, attacked, change], 1).reshape(-1, *clean.shape[1:])
    title = f"{study.config['positive']}, no longer so read, difference × {MAGNIFIED}"
    return _mosaic(triples, 6, f"{title} (two examples a row)")


def _matrix(study: Study, name: str, column: str) -> np.ndarray:
    if not study.store.exists(name):
        raise UserError(
            f"{study.store.uri!r} has no {name}; run the study to its end, on data with the class asked for."
        )
    values = study.store.read_table(name, [column])[column].combine_chunks()
    flat = values.flatten().to_numpy()
    return flat.reshape(len(values), -1)


def _mosaic(tiles: np.ndarray, across: int, title: str) -> bytes:
    """Tiles [N, h, w, C] in rows of ``across``."""
    height, width, channels = tiles.shape[1:]
    gap = max(1, width // 10)
    down = -(-len(tiles) // across)
    canvas = np.ones((down * (height + gap) - gap, across * (width + gap) - gap, channels), np.float32)
    for position, tile in enumerate(tiles):
        row, column = divmod(position, across)
        top, left = row * (height + gap), column * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    with rc_context(_STYLE):
        figure = _figure(8.0, 8.0 * canvas.shape[0] / canvas.shape[1] + 0.4)
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.imshow(canvas if channels > 1 else canvas[..., 0], cmap="gray", interpolation="nearest")
        axes.set_title(title, fontsize=11, loc="left")
        return _png(figure, bbox_inches="tight", pad_inches=0.06)
