"""A model that was trained is in its study before anything else is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from advlab import data
from advlab.command import CommonOptions
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models import Checkpoint, checkpoint, zoo
from advlab.models.recipe import Recipe
from advlab.models.study_models import trained_by
from advlab.store.layout import weights_file
from advlab.studies.transfer import plan as transfer_plan
from advlab.studies.transfer import study as transfer_study
from advlab.studies.transfer.plan import TransferConfig
from advlab.studies.transfer.results import TransferStudy

CONFIG = TransferConfig(models="softmax1,softmax1e-2", split="test", train_split="test", examples=4, controls="")


class Pool:
    """In place of the pool of actors: 'trains' in this process, or not at all."""

    def __init__(self) -> None:
        self.trained: list[str] = []

    def share(self, *_: Any) -> None:
        pass

    unshare = share

    def run(self, units: list[Any], follow: Callable[[Any, Any], Iterable[Any]], **_: Any) -> Any:
        for unit in units:
            self.trained.append(unit.recipe.name)
            follow(unit, untrained(unit.recipe).to_bytes())
        return None


def untrained(recipe: Recipe) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint(recipe, dict(recipe.build().state_dict()), {})


def prepare(out: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TransferStudy, Pool]:
    """Begin, or go on, up to where the models are there."""
    monkeypatch.setattr("advlab.engine.pool.require_success", lambda *_: None)
    plan, pool = transfer_plan.prepare(CONFIG), Pool()
    study = transfer_study.TransferMatrix(common=CommonOptions(out=str(out))).begin(plan)
    transfer_study._prepare_models(plan, study, pool)  # type: ignore[arg-type]
    return study, pool


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_test: Dataset) -> None:
    """A cache for models that cannot be written."""
    monkeypatch.setattr(checkpoint, "_path", lambda recipe: tmp_path / "file" / f"{recipe.fingerprint}.safetensors")
    (tmp_path / "file").write_text("where a folder should be")
    monkeypatch.setattr(data, "load", lambda *_, **__: mnist_test)


@pytest.mark.usefixtures("no_cache")
def test_a_cache_that_cannot_be_written_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study, pool = prepare(tmp_path / "out", monkeypatch)
    assert sorted(pool.trained) == ["softmax1", "softmax1e-2"]
    assert "softmax1 is not kept in the cache" in caplog.text
    assert trained_by(study, "softmax1").fingerprint == study.fingerprints["softmax1"]
    assert prepare(tmp_path / "out", monkeypatch)[1].trained == []


@pytest.mark.usefixtures("no_cache")
def test_a_torn_model_of_the_study_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = prepare(tmp_path / "out", monkeypatch)
    content = study.store.read_bytes(weights_file("softmax1"))
    study.store.write_bytes(weights_file("softmax1"), content[:-9])
    assert prepare(tmp_path / "out", monkeypatch)[1].trained == ["softmax1"]
    assert trained_by(study, "softmax1").fingerprint == study.fingerprints["softmax1"]


@pytest.mark.usefixtures("no_cache")
def test_a_model_of_another_version_is_not_trained_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = prepare(tmp_path / "out", monkeypatch)
    later = study.store.read_bytes(weights_file("softmax1")).replace(b'\\"split\\"', b'\\"later\\"')
    study.store.write_bytes(weights_file("softmax1"), later)
    with pytest.raises(UserError, match="was written by another version of advlab"):
        prepare(tmp_path / "out", monkeypatch)
    assert study.store.read_bytes(weights_file("softmax1")) == later


@pytest.mark.usefixtures("no_cache")
def test_what_cannot_be_written_to_the_study_goes_into_the_cache_at_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_test: Dataset
) -> None:
    monkeypatch.setattr(checkpoint, "_path", lambda recipe: tmp_path / "cache" / f"{recipe.fingerprint}.safetensors")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer_study, "_adopt", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(tmp_path / "out", monkeypatch)
    recipes = [zoo.recipe(name, mnist_test) for name in ("softmax1", "softmax1e-2")]
    assert any(checkpoint.find(recipe) is not None for recipe in recipes)
