"""Snapshots of a pool: whole for any reader, whatever becomes of the writer."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.hardening import snapshots
from advlab.hardening.settings import Settings
from advlab.hardening.trainer import Alternating, Trainer
from advlab.store import Store

WRITER = """
import sys, torch
from advlab.hardening import Batch, Pool
from advlab.hardening import snapshots
from advlab.store import Store

store, pool, step = Store(sys.argv[1]), Pool(300), 0
while True:  # every value of a snapshot is its step
    step += 1
    for level in (0, 1):
        same = torch.full((300,), step)
        held = Batch(same[:, None].repeat(1, 50).float(), same % 10, same, same, same.float())
        pool.layers[level] = held
    snapshots.save(store, "", pool, step, {level: torch.full((300,), step % 10) for level in (0, 1)})
    print(step, flush=True)
"""


def test_a_reader_never_sees_a_torn_snapshot_and_the_last_outlives_the_writer(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        steps = []
        for _ in range(150):
            pool, pointer = snapshots.load(str(tmp_path))
            steps.append(pointer["step"])
            for level in (0, 1):
                held = pool.layers[level]
                assert set(held.values.unique().tolist()) == {steps[-1]}
                assert set(held.births.tolist()) == {steps[-1]}
        writer.send_signal(signal.SIGKILL)
    assert steps == sorted(steps)
    assert len(set(steps)) > 3  # they were read while others were written
    assert snapshots.load(str(tmp_path))[1]["step"] >= steps[-1]
    assert len({name.split("/")[0] for name in Store(tmp_path).files(suffix=".parquet")}) <= snapshots.KEPT + 1


@pytest.fixture(scope="module")
def folder(thousand: Dataset, short: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool that a training run left behind."""
    path = tmp_path_factory.mktemp("pool")
    trainer = Trainer(short, thousand, seed=0, source=Alternating())
    trainer.run(trainer.total)
    snapshots.save(Store(path), "", trainer.pool, trainer.step, trainer.predictions(trainer.pool))
    return path


def test_the_files_are_examples_with_a_layer(folder: Path) -> None:
    pointer = json.loads((folder / snapshots.POINTER).read_text())
    table = pq.read_table(folder / pointer["files"]["1"])
    assert {"index", "label", "target", "success", "l2", "rms", "image", "layer", "birth"} <= set(table.column_names)
    assert set(table["layer"].to_pylist()) == {1}
    assert (table["success"].to_numpy() == (table["target"].to_numpy() != table["label"].to_numpy())).all()
    assert table["l2"].to_numpy() == pytest.approx(table["rms"].to_numpy() * 30**0.5)


def test_other_training_reads_it_as_a_data_set_or_as_batches(folder: Path, thousand: Dataset) -> None:
    pool, _ = snapshots.load(str(folder))
    clean = TensorDataset(thousand.images, thousand.labels)
    both = snapshots.mixed(clean, pool, (1, 28, 28))
    assert len(both) == 1000 + 200
    images, labels = next(iter(DataLoader(both, batch_size=64, shuffle=True)))
    assert images.shape == (64, 1, 28, 28)
    assert labels.dtype == torch.int64
    hidden, _ = next(iter(snapshots.Live(str(folder), level=2, batch_size=16)))
    assert hidden.shape == (16, 20)


def test_a_live_reader_follows_the_writer(folder: Path, tmp_path: Path) -> None:
    pool, _ = snapshots.load(str(folder))
    predictions = {level: held.labels for level, held in pool.layers.items()}
    snapshots.save(Store(tmp_path), "", pool, 1, predictions)
    live = snapshots.Live(str(tmp_path), batch_size=8, reload_every=2)
    batches = iter(live)
    next(batches)
    pool.layers[0].values.fill_(0.25)
    snapshots.save(Store(tmp_path), "", pool, 2, predictions)
    assert [float(next(batches)[0].mean()) == 0.25 for _ in range(3)] == [False, True, True]
    assert live.step == 2


def test_mistakes_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="holds no pool"):
        snapshots.load(str(tmp_path))
    pool, _ = snapshots.load(str(folder))
    with pytest.raises(UserError, match=r"level 7; it has levels \[0, 1, 2\]"):
        snapshots.dataset(pool, 7)
    predictions = {level: held.labels for level, held in pool.layers.items()}
    snapshots.save(Store(tmp_path), "", pool, 1, predictions)
    (tmp_path / "step=000000001/layer-0.parquet").write_bytes(b"torn")
    with pytest.raises(UserError, match="step 1 is damaged"):
        snapshots.load(str(tmp_path))
