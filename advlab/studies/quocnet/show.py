"""Tables and figures of a QuocNet run: filters, the car classifier, and the paper's Figure 6."""

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from advlab.analysis.filter_statistics import localisation, orientation
from advlab.errors import UserError
from advlab.models.quocnet import preset
from advlab.report import Shown, canvas
from advlab.report.numbers import ruled
from advlab.store import Study
from advlab.studies.quocnet.work import ATTACKED, FILTERS

_ACROSS = 24
_SHOWN = 288


def show(study: Study, _width: int) -> Shown:
    files = {"figures/filters.png": filters(study)}
    if study.store.exists(ATTACKED):
        files["figures/figure_6.png"] = figure_6(study)
    return Shown(tables=[table(study)], files=files, summary=study.manifest["result"])


def table(study: Study) -> Table:
    result = study.manifest["result"]
    shown = ruled(f"{study.config['model']} on {study.config['data']}", ["what"], ["value"])
    shown.add_row("cost per image, last 50 steps", f"{result['loss']:.2f}")
    shown.add_row("seconds per step, median", f"{result['seconds_per_step']:.3f}")
    kernels = _filters(study)
    for text, measure in (("energy in the best quarter of the field", localisation), ("orientation", orientation)):
        shown.add_row(f"first-stage filters, median: {text}", f"{float(measure(kernels).median()):.2f}")
    if "detection" in result:
        found = result["detection"]
        for name, ends, text in (("auc", "auc", "AUC"), ("balanced_accuracy", "balanced", "balanced accuracy")):
            estimate = f"{found[name]:.3f} [{found[f'{ends}_low']:.3f}, {found[f'{ends}_high']:.3f}]"
            shown.add_row(f"{study.config['positive']}, held out: {text}", estimate)
    if "attacked" in result:
        shown.add_row("adversarial examples", f"{result['fooled']} of {result['attacked']}")
        shown.add_row("their mean distortion, RMS", f"{result['mean_rms']:.5f}")
    return shown


def filters(study: Study) -> bytes:
    """Filters of the first stage, those of a position side by side, all on one scale; PNG."""
    tiles = np.moveaxis(_filters(study)[:_SHOWN].numpy(), 1, -1)
    side, largest = tiles.shape[1], np.quantile(np.abs(tiles), 0.995)
    scaled = (0.5 + 0.5 * tiles / largest).clip(0, 1)
    return canvas.mosaic(scaled, _ACROSS, f"first-stage filters, {side} × {side} pixels")


def figure_6(study: Study, rows: int = 8) -> bytes:
    """The paper's Figure 6: correctly classified, misclassified, and the absolute difference, magnified; PNG.

    A UserError when nothing was attacked.
    """
    size = preset(study.config["model"]).size
    shape = (-1, preset(study.config["model"]).channels, size, size)
    clean, attacked = (
        np.moveaxis(_matrix(study, ATTACKED, name).reshape(shape), 1, -1) for name in ("original", "image")
    )
    success = study.store.read_table(ATTACKED, ["success"])["success"].to_numpy(zero_copy_only=False)
    clean, attacked = clean[success][: 2 * rows], attacked[success][: 2 * rows]
    change = np.abs(attacked - clean)
    factor = canvas.magnification(change)
    triples = np.stack([clean, attacked, (factor * change).clip(0, 1)], 1).reshape(-1, *clean.shape[1:])
    positive = study.config["positive"]
    title = f"{positive}, no longer classified as {positive}, difference × {factor:,.0f}"
    return canvas.mosaic(triples, 6, f"{title} (two examples a row)")


def _filters(study: Study) -> Tensor:
    """[n, C, K, K]."""
    flat = torch.tensor(_matrix(study, FILTERS, "filter"))
    shape = preset(study.config["model"])
    side = shape.stages[0].field
    return flat.view(-1, shape.channels, side, side)


def _matrix(study: Study, name: str, column: str) -> np.ndarray:
    if not study.store.exists(name):
        raise UserError(f"{study.store.uri!r} has no {name}; finish the study, on data with the requested class.")
    values = study.store.read_table(name, [column])[column].combine_chunks()
    flat = values.flatten().to_numpy()
    return flat.reshape(len(values), -1)
