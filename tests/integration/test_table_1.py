"""The six models of Table 1, trained and attacked in full: a quarter of an hour on two cores with nothing cached."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from advlab.data import Dataset
from advlab.models import PAPER
from advlab.studies.transfer.results import TransferStudy

SWEEP = Path(__file__).parents[2] / "sweeps" / "transfer_matrix.py"

# Training and test error in per cent: what the readings of the weight decay span, or the paper's neighbourhood.
RANGES = {
    "softmax1e-4": ((6.1, 6.9), (7.3, 7.5)),
    "softmax1e-2": ((8.3, 10.9), (8.1, 10.2)),
    "softmax1": ((15.5, 28.5), (14.6, 26.6)),
    "fc100-100-10": ((0.0, 0.05), (1.5, 2.1)),
    "fc200-200-10": ((0.0, 0.05), (1.4, 1.95)),
    "ae400-10": ((0.3, 1.2), (1.7, 2.6)),
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_table_1_and_the_diagonal_of_table_2(tmp_path: Path, mnist_train: Dataset) -> None:
    done = subprocess.run([sys.executable, str(SWEEP), "--out", str(tmp_path / "out")], check=False)
    assert done.returncode == 0
    study = TransferStudy.open(str(tmp_path / "out"))
    for name, (train_range, test_range) in RANGES.items():
        report = study.manifest["models"][name]["report"]
        assert train_range[0] <= 100 * report["train_error"] <= train_range[1], name
        assert test_range[0] <= 100 * report["test_error"] <= test_range[1], name
    for row in pq.read_table(tmp_path / "out/matrix.parquet").to_pylist():
        if row["source"] == row["target"]:
            assert row["n"] == 1000
            assert row["error_rate"] == row["conditional_error_rate"] == 1.0
    for name in PAPER:
        table = study.examples(name)
        images = study.images(table).astype(np.float64)
        assert table["success"].to_numpy(zero_copy_only=False).all()
        assert images.min() >= 0
        assert images.max() <= 1
        difference = images - mnist_train.images[table["index"].to_numpy()].numpy()
        np.testing.assert_allclose(table["rms"], np.sqrt(np.square(difference).mean((1, 2, 3))), rtol=0, atol=1e-6)
