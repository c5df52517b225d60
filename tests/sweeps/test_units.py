"""``sweeps/units.py`` as users run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from advlab.data import Dataset

REPOSITORY = Path(__file__).parents[2]
MODEL = """
import torch
from torch import nn


def grey() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5))
"""


def test_a_folder_of_photos_on_the_pool(tmp_path: Path, mnist_test: Dataset) -> None:
    for row in range(40):
        pixels = (mnist_test.images[row, 0] * 255).byte().numpy()
        folder = tmp_path / "photos" / str(int(mnist_test.labels[row]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{row}.png")
    (tmp_path / "model.py").write_text(MODEL)
    command = [
        sys.executable, str(REPOSITORY / "sweeps/units.py"), "--model", f"file:{tmp_path / 'model.py'}:grey",
        "--layer", "1", "--data", f"folder:{tmp_path / 'photos'}", "--input-size", "32", "--shard-size", "15",
        "--top", "4", "--directions", "5", "--actors", "1", "--labels", "predicted", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    environment = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    for text in ("single units", "a random rotation", "principal components", "random images", "no distinction"):
        assert text in done.stdout
    assert (tmp_path / "out/figures/contact_sheet.png").stat().st_size > 10_000
    sets = pq.read_table(tmp_path / "out/sets.parquet").to_pandas()
    assert sets.groupby("basis").size().to_dict() == {
        "natural": 5, "random": 5, "rotation": 5, "pca": 5, "random images": 5,
    }  # fmt: skip
    assert len(pq.read_table(tmp_path / "out/tests.parquet")) == 4 * (3 + 4)
