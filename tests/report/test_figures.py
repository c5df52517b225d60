"""Figures are drawn without a display or global state, and show what they say they show."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from advlab.report import canvas
from advlab.report.palette import heat
from advlab.studies.transfer import figures, show
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.summary import short
from advlab.studies.transfer.view import View


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_every_figure_is_a_png_with_something_on_it(view: View) -> None:
    drawn, panels = figures.draw(view)
    assert list(panels) == ["softmax1e-4", "softmax1e-2", "gaussian-0.3"]
    for name, png in (drawn | panels).items():
        picture = pixels(png)
        assert picture.shape[1] >= 500, name
        assert picture.std() > 5, name


def test_drawing_leaves_no_global_state(view: View) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = dict(pyplot.rcParams)
    figures.matrix_heat_map(view)
    assert pyplot.get_fignums() == []
    assert dict(pyplot.rcParams) == before


def test_odd_columns_are_clean_and_even_columns_distorted(view: View) -> None:
    study, mosaic = view.study, figures._pairs(view, "softmax1e-2", rows=2)
    assert mosaic is not None
    assert mosaic.shape == (2 * 28 + 2, 5 * 56 + 5 * 2 + 4 * 4, 1)
    clean, distorted = mosaic[:28, :28, 0], mosaic[:28, 30:58, 0]
    originals = study.dataset.images.numpy()[:, 0]
    position = int(np.abs(originals - clean).sum((1, 2)).argmin())
    np.testing.assert_array_equal(originals[position], clean)
    assert int(study.dataset.labels[position]) == 0
    np.testing.assert_array_equal(study.images(study.examples("softmax1e-2"))[position, 0], distorted)


def test_photos_get_figure_5_with_the_change_shifted_to_grey(
    colour_study: TransferStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = colour_study
    view = View(study)
    assert "figure_5" in figures.draw(view)[0]
    shown: list[tuple[np.ndarray, int, str]] = []

    def keep(tiles: np.ndarray, across: int, title: str) -> bytes:
        shown.append((tiles, across, title))
        return b""

    monkeypatch.setattr(canvas, "mosaic", keep)
    figures.figure_5(view, rows=2)
    ((tiles, across, title),) = shown
    examples = study.examples("softmax1e-2")
    moved = (examples["rms"].to_numpy() > 0) & examples["success"].to_numpy(zero_copy_only=False)
    photo, change, *_, adversarial = tiles[:across]
    first = int(np.flatnonzero(moved)[0])
    np.testing.assert_array_equal(photo, study.dataset.images[first].permute(1, 2, 0).numpy())
    np.testing.assert_allclose(change, (128 / 255 + 10 * (adversarial - photo)).clip(0, 1), atol=1e-6)
    assert len(tiles) == 2 * across
    assert f"{examples['rms'].to_numpy()[moved].mean():.6f}" in title
    assert "0.006508" not in title  # the paper's, of AlexNet


@pytest.mark.parametrize(("largest", "factor"), [(0.0, 10), (0.3, 10), (0.04, 10), (0.0006, 800), (2e-6, 200_000)])
def test_a_change_is_magnified_until_it_can_be_seen(largest: float, factor: float) -> None:
    change = np.linspace(-largest, largest, 10_001)
    assert canvas.magnification(change) == pytest.approx(factor)


def _unfooled(monkeypatch: pytest.MonkeyPatch, sources: Sequence[str]) -> None:
    """Let no example of these models fool them."""
    examples = TransferStudy.examples

    def failed(self: TransferStudy, source: str, *arguments: Any, **options: Any) -> pa.Table:
        table = examples(self, source, *arguments, **options)
        if source not in sources or "success" not in table.column_names:
            return table
        return table.set_column(table.column_names.index("success"), "success", pa.array([False] * len(table)))

    monkeypatch.setattr(TransferStudy, "examples", failed)


def test_figure_5_is_of_the_first_model_that_is_fooled(
    two_colour_models: TransferStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_colour_models.targets
    _unfooled(monkeypatch, [first])
    view = View(two_colour_models)
    assert figures.figure_5(view, first) is None
    assert figures.figure_5(view) == figures.figure_5(view, second)


def test_a_report_of_models_that_nothing_fools_is_whole_without_figure_5(
    colour_study: TransferStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    _unfooled(monkeypatch, colour_study.targets)
    files = show.render(colour_study)
    assert "figures/figure_5.png" not in files
    assert {"report.html", "figures/figure_7.png", "figures/distortion_curves.png"} <= set(files)


def test_figure_5_shows_a_change_of_a_single_pixel(
    colour_study: TransferStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = TransferStudy.images

    def sparse(self: TransferStudy, table: pa.Table) -> np.ndarray:
        changed = self.clean_images(table["index"].to_numpy()).copy()
        changed[:, :, 3, 4] = images(self, table)[:, :, 3, 4]
        changed[:, 0, 3, 4] = 1 - changed[:, 0, 3, 4]
        return changed

    monkeypatch.setattr(TransferStudy, "images", sparse)
    assert figures.figure_5(View(colour_study)) is not None


def test_headings_leave_out_where_a_model_comes_from() -> None:
    names = {
        "python:advlab.models.efficientnet:lite0": "efficientnet:lite0",
        "shuffled-python:advlab.models.efficientnet:lite0": "shuffled-efficientnet:lite0",
        "file:/data/nets/mine.py:make": "mine:make",
        "softmax1e-2": "softmax1e-2",
        "torchvision:alexnet@random": "torchvision:alexnet@random",
    }
    assert [short(name) for name in names] == list(names.values())


def test_noise_gets_the_last_panel_and_its_accuracy(view: View) -> None:
    matrix = view.matrix
    assert figures.figure_7_sources(matrix) == ["softmax1e-4", "softmax1e-2", "gaussian-0.3"]
    assert figures._accuracy(matrix, "softmax1e-4") == "accuracy 0%"


def test_colours_darken_all_the_way_and_text_on_them_is_readable() -> None:
    def luminance(colour: str) -> float:
        channels = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    levels = []
    for rate in np.linspace(0, 1, 101):
        background, ink = heat(rate)
        low, high = sorted((luminance(background), luminance(ink)))
        assert (high + 0.05) / (low + 0.05) >= 3.9
        levels.append(luminance(background))
    assert np.all(np.diff(levels) < 0)
