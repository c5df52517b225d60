"""``sweeps/spectral.py`` as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

REPOSITORY = Path(__file__).parents[2]
MODEL = """
import torch
from torch import nn


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2, padding=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Linear(4 * 36, 10),
    )
"""


def spectral(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "sweeps/spectral.py"), *arguments]
    environment = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of a tiny network, and what it printed beside it."""
    folder = tmp_path_factory.mktemp("spectral")
    (folder / "model.py").write_text(MODEL)
    settings = ["--model", f"file:{folder / 'model.py'}:tiny", "--data", "mnist", "--images", "3", "--actors", "1"]
    done = spectral(*settings, "--out", str(folder / "out"))
    assert done.returncode == 0, done.stderr
    (folder / "printed.txt").write_text(done.stdout)
    return folder / "out"


def test_it_prints_the_table_and_draws_the_spectra(study: Path) -> None:
    printed = (study.parent / "printed.txt").read_text()
    for text in ("1 x 5 x 5 x 4", "144 x 10", "printed", "adversarial", "spectra.png"):
        assert text in printed
    assert (study / "figures/spectra.png").stat().st_size > 10_000


def test_rows_are_consistent(study: Path) -> None:
    rows = pq.read_table(study / "layers.parquet").to_pylist()
    assert [row["name"] for row in rows] == ["0", "5"]
    for row in rows:
        assert 0 < row["lower"] <= row["upper"]
        assert row["norm_measured"] <= row["upper_padded"] * (1 + 1e-6)
        assert row["adversarial_gain"] <= row["product_bound"]
        assert 0 < row["jacobian_gain"] <= row["product_bound"]
    convolution = rows[0]
    assert (convolution["stride"], convolution["input_size"]) == (2, "28 x 28")
    assert convolution["printed_upper"] > 1.5 * convolution["upper"]
    spectra = pq.read_table(study / "spectra.parquet").to_pandas()
    for position, values in spectra.groupby("position"):
        assert (np.diff(values["value"]) >= 0).all()
        assert values["value"].max() <= rows[int(position)]["upper"] * (1 + 1e-6)  # type: ignore[call-overload]
    manifest = json.loads((study / "study.json").read_text())
    assert manifest["finished"]
    assert manifest["product_bound"] == rows[-1]["product_bound"]


def test_mistakes_end_with_one_sentence(tmp_path: Path) -> None:
    done = spectral("--model", "python:torch.nn:NoSuch", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "write python:MODULE:FACTORY" in done.stderr
    assert "Traceback" not in done.stderr
