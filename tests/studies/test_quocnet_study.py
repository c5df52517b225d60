"""QuocNet runs: by itself in this process, and on Ray Train with workers that die."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import killed_workers
import numpy as np
import pytest
import torch

from advlab import data
from advlab.command import CommonOptions
from advlab.engine import launcher
from advlab.errors import UserError
from advlab.store import Study
from advlab.studies.quocnet import show
from advlab.studies.quocnet import study as quocnet_study
from advlab.studies.quocnet.study import QuocNet
from advlab.studies.quocnet.work import ATTACKED, FILTERS, SCORES, Layout, QuocNetConfig

CONFIG = QuocNetConfig(
    model="quocnet-tiny", examples=600, steps=6, batch_size=16, sparsity=0.1, attacked=2, learning_rate=0.003
)
ARGUMENTS = [
    "--model", "quocnet-tiny", "--examples", "600", "--steps", "6", "--batch-size", "16", "--sparsity", "0.1",
    "--attacked", "2", "--learning-rate", "0.003",
]  # fmt: skip


LAYOUT = Layout(alone=True, checkpoint_every=3)


def run(quocnet: QuocNet) -> Study:
    study = quocnet.begin(None)
    quocnet.run(None, study, None, lambda _, **__: None)
    return study


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished run in this process."""
    return run(QuocNet(settings=CONFIG, layout=LAYOUT, common=CommonOptions(out=str(tmp_path_factory.mktemp("alone")))))


def losses(study: Study) -> np.ndarray:
    steps = quocnet_study.losses(study.store)
    assert steps["step"].to_pylist() == list(range(CONFIG.steps))
    return steps["loss"].to_numpy()


def test_a_run_leaves_losses_filters_scores_and_attacked_images(alone: Study) -> None:
    assert losses(alone)[-1] < losses(alone)[0]
    filters = alone.store.read_table(FILTERS)["filter"].combine_chunks()
    assert len(filters.flatten()) == len(filters) * 3 * 6 * 6
    scores = alone.store.read_table(SCORES)
    held_out = data.load("cifar10", "test").subset(slice(600))
    assert scores["positive"].to_pylist() == (held_out.labels == 1).tolist()
    attacked = alone.store.read_table(ATTACKED)
    assert attacked["success"].to_pylist() == [True] * len(attacked)
    original = np.stack(attacked["original"].to_pylist()).reshape(-1, 3, 32, 32)
    rows = torch.tensor(attacked["index"].to_pylist())
    assert np.array_equal(original, held_out.images[rows].numpy().astype(original.dtype))
    change = np.stack(attacked["image"].to_pylist()).reshape(original.shape) - original
    np.testing.assert_allclose(
        np.linalg.norm(change.reshape(len(change), -1), axis=1), attacked["l2"].to_numpy(), rtol=1e-3
    )
    assert alone.manifest["result"]["fooled"] == len(attacked)


def test_its_figures_and_its_table(alone: Study) -> None:
    for picture in (show.filters(alone), show.figure_6(alone)):
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 5_000
    assert show.table(alone).row_count == 8


def test_a_stopped_run_goes_on_from_its_checkpoint(
    alone: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the steps are there, with the checkpoint after them; the others follow as they would have."""
    quocnet = QuocNet(settings=CONFIG, layout=LAYOUT, common=CommonOptions(out=str(tmp_path / "run")))

    class Interrupted(launcher.Alone):
        def report(self, told: dict[str, Any], folder: str | None) -> None:
            super().report(told, folder)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(launcher, "Alone", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(quocnet)
    study = Study.open(str(tmp_path / "run"))
    assert study.store.files("losses", suffix=".parquet") == ["losses/part-00000000.parquet"]
    again = run(quocnet)
    np.testing.assert_allclose(losses(again), losses(alone), rtol=1e-6)
    assert [path.name for path in sorted((tmp_path / "run" / "alone").iterdir())] == ["step-00000006"]


@pytest.mark.parametrize(
    ("config", "layout", "message"),
    [
        (QuocNetConfig(model="quocnet-9b"), Layout(), "unknown model 'quocnet-9b'; choose one of"),
        (QuocNetConfig(steps=0), Layout(), "--steps 0 is impossible; choose at least 1"),
        (QuocNetConfig(batch_size=9), Layout(data_parallel=2), "--batch-size 9 cannot be split into 2 parts"),
        (QuocNetConfig(), Layout(space=2, parallelism="fsdp"), "fsdp only splits batches; give --data-parallel 2"),
        (QuocNetConfig(examples=10), Layout(), "--batch-size 64 is more than the 10 images of cifar10"),
        (QuocNetConfig(), Layout(space=2, alone=True), "--alone is a single process"),
    ],
)
def test_mistakes_are_one_sentence(config: QuocNetConfig, layout: Layout, message: str) -> None:
    with pytest.raises(UserError, match=message):
        QuocNet(settings=config, layout=layout).prepare()


@pytest.mark.slow
def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint(alone: Study, tmp_path: Path) -> None:
    """Two workers share the network by rows; one is killed; the losses are those of one process all the same."""
    parts = tmp_path / "run" / "losses"
    arguments = [*ARGUMENTS, "--space", "2", "--checkpoint-every", "1"]
    study = killed_workers.run("quocnet.py", arguments, tmp_path / "run", lambda: len(list(parts.glob("part-*"))) >= 2)
    np.testing.assert_allclose(losses(study), losses(alone), rtol=1e-4)
    assert study.manifest["result"]["fooled"] == study.manifest["result"]["attacked"] == 2
    kept = killed_workers.checkpoints(tmp_path / "run" / "train")
    assert len(kept) == 2
    assert all(folder.is_dir() for folder in kept.values())
