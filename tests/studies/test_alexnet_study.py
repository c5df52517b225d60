"""AlexNet runs: by itself in this process, and on Ray Train with workers that die."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import killed_workers
import numpy as np
import pytest
from PIL import Image

from advlab import models
from advlab.command import CommonOptions
from advlab.engine import launcher
from advlab.engine.launcher import Alone
from advlab.errors import UserError
from advlab.models import Checkpoint, study_models
from advlab.store import Study
from advlab.studies.alexnet import show
from advlab.studies.alexnet.study import AlexNet
from advlab.studies.alexnet.work import AlexNetConfig, Layout, curve

CONFIG = AlexNetConfig(
    variant="torchvision", width=0.05, size=16, examples=240, held_out=60, epochs=3, batch_size=40, recipe="modern"
)
ARGUMENTS = [
    "--variant", "torchvision", "--width", "0.05", "--size", "16", "--examples", "240", "--held-out", "60",
    "--epochs", "3", "--batch-size", "40", "--recipe", "modern",
]  # fmt: skip
ALONE = Layout(alone=True, checkpoint_every=4)


def run(alexnet: AlexNet) -> Study:
    study = alexnet.begin(None)
    alexnet.run(None, study, None, lambda _, **__: None)
    return study


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished run in this process."""
    return run(AlexNet(settings=CONFIG, layout=ALONE, common=CommonOptions(out=str(tmp_path_factory.mktemp("alone")))))


def losses(study: Study) -> np.ndarray:
    rows = curve(study.store)
    assert [row["epoch"] for row in rows] == [1.0, 2.0, 3.0]
    return np.array([row["train_loss"] for row in rows])


def test_a_run_leaves_a_curve_and_a_model_for_other_studies(alone: Study) -> None:
    assert losses(alone)[-1] < losses(alone)[0]
    result = alone.manifest["result"]
    assert result["test_images"] == 10_000
    assert 0 <= result["test_error"] <= 1
    (model,) = study_models.load(f"study:{alone.store.uri}").values()
    assert model.checkpoint.report == result
    recipe = model.checkpoint.recipe
    trained = model.checkpoint.network()
    assert Checkpoint.from_bytes(model.checkpoint.to_bytes()).recipe == recipe
    assert sum(weight.numel() for weight in trained.parameters()) == result["parameters"]
    assert alone.manifest["models"]["alexnet"]["fingerprint"] == model.checkpoint.fingerprint
    assert models.checkpoint.weights_fingerprint(trained.state_dict()) == model.checkpoint.fingerprint


def test_its_figure_and_its_table(alone: Study) -> None:
    assert show.learning_curve(alone).startswith(b"\x89PNG")
    assert show.table(alone).row_count == 8


def test_a_stopped_run_goes_on_from_its_checkpoint(
    alone: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the first epoch: losses and weights are those of a run that was not."""

    class Interrupted(Alone):
        def report(self, told: dict[str, Any], folder: str | None) -> None:
            super().report(told, folder)
            raise KeyboardInterrupt

    alexnet = AlexNet(settings=CONFIG, layout=ALONE, common=CommonOptions(out=str(tmp_path / "run")))
    with monkeypatch.context() as patched:
        patched.setattr(launcher, "Alone", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(alexnet)
    assert [path.name for path in (tmp_path / "run" / "alone").iterdir()] == ["step-00000004"]
    assert not Study.open(str(tmp_path / "run")).store.files("curve")
    again = run(alexnet)
    assert np.array_equal(losses(again), losses(alone))
    assert again.manifest["models"]["alexnet"]["fingerprint"] == alone.manifest["models"]["alexnet"]["fingerprint"]


@pytest.mark.parametrize(
    ("config", "layout", "message"),
    [
        ({"epochs": 0}, {}, "--epochs 0 is impossible; choose at least 1"),
        ({"name": "a,b"}, {}, "--name 'a,b' is not a valid name; use letters"),
        ({"size": 8}, {}, "--size 8 is impossible; choose at least 16"),
        ({"size": 64}, {}, "--size 64 is more than the 32 pixels of cifar10; choose at most that"),
        ({"dropout": 1.0}, {}, "--dropout 1 is impossible"),
        ({"data": "mnist"}, {}, "--data mnist has images of 1 channel; choose cifar10 or colour photos"),
        ({"data": "imagenet:/nowhere"}, {}, "there is no folder /nowhere/train"),
        ({"width": -1.0}, {}, "a width of -1; choose more than 0"),
        ({"examples": 30}, {}, "--batch-size 128 is more than the 30 training images"),
        ({"held_out": 50_000}, {}, "`held_out` 50000 are impossible together: there are 50000 training images"),
        ({"batch_size": 4}, {"workers": 5}, "--batch-size 4 cannot be split into 5 parts"),
        ({}, {"workers": 2, "min_workers": 3}, "--min-workers 3 is more than --workers 2"),
        ({}, {"workers": 2, "alone": True}, "--alone is a single process; leave out --workers 2 or --alone"),
    ],
)
def test_mistakes_are_one_sentence(config: dict[str, Any], layout: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AlexNet(settings=AlexNetConfig(**config), layout=Layout(**layout)).prepare()


def test_photos_need_test_images_of_the_same_classes(tmp_path: Path) -> None:
    photos, config = tmp_path / "photos", {"held_out": 0, "batch_size": 2, "size": 16}

    def write(split: str, kind: str) -> None:
        (photos / split / kind).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            Image.new("RGB", (30, 20)).save(photos / split / kind / f"{number}.png")

    write("", "cat")
    with pytest.raises(UserError, match="has no separate test images; put them into a folder test beside train"):
        AlexNet(settings=AlexNetConfig(data=f"folder:{photos}", **config)).prepare()
    write("train", "cat")
    write("test", "dog")
    with pytest.raises(UserError, match="has test images but no training images of class 'dog'"):
        AlexNet(settings=AlexNetConfig(data=f"folder:{photos}", **config)).prepare()


@pytest.mark.slow
def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint(alone: Study, tmp_path: Path) -> None:
    """Two workers share every batch; one is killed in mid-epoch; the losses are those of one process all the same."""
    checkpoints = tmp_path / "run" / "train"
    arguments = [*ARGUMENTS, "--workers", "2", "--checkpoint-every", "1"]
    study = killed_workers.run(
        "alexnet.py", arguments, tmp_path / "run", lambda: len(list(checkpoints.glob("checkpoint_*"))) >= 2
    )
    np.testing.assert_allclose(losses(study), losses(alone), rtol=1e-3)
    assert study.manifest["result"]["test_images"] == 10_000
    kept = killed_workers.checkpoints(checkpoints)
    assert list(kept) == [17, 18]
    assert all((folder / "state.pt").exists() for folder in kept.values())
