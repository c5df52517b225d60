"""Contact sheets of Figures 1 to 4, and a table that compares bases."""

import numpy as np
import pyarrow.compute as pc
import torch
from matplotlib import rc_context
from rich.table import Table

from advlab import data
from advlab.analysis.statistics import STATISTICS
from advlab.data import Dataset
from advlab.models.resolve import input_size
from advlab.report import Shown, canvas
from advlab.report.numbers import ruled
from advlab.report.palette import INK, MUTED
from advlab.store import Study

TITLES = {
    "natural": "single units",
    "random": "random directions",
    "rotation": "a random rotation",
    "pca": "principal components",
    "random images": "random images",
}
ROWS = 8
"""Number of directions shown of each basis, from the first, as the choice of units is random already."""
_CELL = 0.62  # inches


def show(study: Study, _width: int) -> Shown:
    config, verdict = study.config, str(study.manifest["verdict"])
    size = config["input_size"] or input_size(config["model"])
    images = data.load(config["data"], config["split"], size=size)
    return Shown(
        tables=[bases_table(study), verdict],
        files={"figures/contact_sheet.png": contact_sheet(study, images)},
        rows={"sets": study.store.read_table("sets.parquet"), "tests": study.store.read_table("tests.parquet")},
        summary={"finding": verdict},
    )


def bases_table(study: Study) -> Table:
    """Mean of every statistic by basis, with p-values of the difference from single units."""
    sets = study.store.read_table("sets.parquet")
    basis_of = np.array(sets["basis"].to_pylist())
    rows = study.store.read_table("tests.parquet").to_pylist()
    tests = {(row["second"], row["statistic"]): row for row in rows if row["first"] == "natural"}
    title = f"Similarity of the top {study.config['top']} images"
    table = ruled(title, ["basis"], ["directions", *(statistic.replace("_", " ") for statistic in STATISTICS)])
    for basis in dict.fromkeys(basis_of.tolist()):
        cells = []
        for statistic in STATISTICS:
            test = tests.get((basis, statistic))
            beside = "" if test is None else f"\n[dim]g {-test['hedges_g']:+.2f}, p {test['p_holm']:.2g}[/]"
            cells.append(f"{sets[statistic].to_numpy()[basis_of == basis].mean():.3f}{beside}")
        table.add_row(TITLES[basis], str(int((basis_of == basis).sum())), *cells)
    return table


def contact_sheet(study: Study, images: Dataset) -> bytes:
    """The top images of the first directions of each basis, and random images beside them.

    Of the image set only the images shown are decoded.
    """
    winners = study.store.read_table("winners.parquet")
    order = [("direction", "ascending"), ("rank", "ascending")]
    first = winners.filter(pc.less(winners["direction"], ROWS)).sort_by(order)
    basis_of, row_of = np.array(first["basis"].to_pylist()), first["row"].to_numpy()
    rows = np.unique(row_of)
    shown = images.subset(torch.from_numpy(rows)).images.numpy()
    config, k = study.config, study.config["top"]
    layer, images_from = config["layer"] or "the input of the last linear layer", config["data"].rpartition("/")[2]
    caption = (
        f"Each row: the {k} images that stimulate\none direction most, best first.\n\n"
        f"{config['model']}\n{layer}\n{images_from} ({config['split']})"
    )
    bases = list(dict.fromkeys(winners["basis"].to_pylist()))
    columns = 2
    lines = -(-len(bases) // columns)
    with rc_context(canvas.STYLE):
        figure = canvas.figure(columns * (k * _CELL + 0.35), lines * (ROWS * _CELL + 0.5))
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for panel in panels:
            panel.set_axis_off()
        for panel, basis in zip(panels, bases, strict=False):
            tiles = shown[np.searchsorted(rows, row_of[basis_of == basis])].clip(0, 1)
            picture = canvas.tiled(np.moveaxis(tiles, 1, -1), k, (max(1, tiles.shape[2] // 14), 1))
            coloured = np.broadcast_to(picture, (*picture.shape[:2], 3))
            panel.imshow(coloured, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
            panel.set_title(TITLES[basis], color=INK, fontsize=11, loc="left")
        for panel in panels[len(bases) :]:
            panel.text(0.0, 0.9, caption, color=MUTED, va="top", wrap=True, transform=panel.transAxes)
        return canvas.png(figure)
