"""The model a study is about, by every kind of name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from advlab import data, models
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models import Checkpoint, Recipe
from advlab.models.resolve import Resolved, resolve
from advlab.store import Study
from advlab.store.layout import weights_file
from advlab.studies.spectral.study import Spectral, SpectralConfig
from advlab.studies.transfer import plan as transfer_plan
from advlab.studies.transfer.plan import TransferConfig


@pytest.fixture
def checkpoint_file(tmp_path: Path) -> Path:
    return written(tmp_path / "mine.safetensors", "mnist")


def written(path: Path, trained_on: str) -> Path:
    arguments = {"widths": [784, 10]}
    recipe = Recipe(
        name="mine", network="advlab.models.mlp:MLP", network_arguments=arguments, trainer="none", data=trained_on
    )
    path.write_bytes(Checkpoint(recipe, dict(recipe.build().state_dict()), {}).to_bytes())
    return path


def test_a_checkpoint_by_its_path(checkpoint_file: Path) -> None:
    subject = resolve(str(checkpoint_file), "mnist", 0)
    assert subject.own_data == "mnist"
    assert subject.model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    checkpoint_file.write_bytes(b"torn")
    with pytest.raises(UserError, match="is not a checkpoint of advlab"):
        resolve(str(checkpoint_file), "mnist", 0)


def test_a_checkpoint_names_no_data_but_the_packages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    load = data.load

    def note(name: str, *arguments: Any, **keywords: Any) -> Dataset:
        asked.append(name)
        return load(name, *arguments, **keywords)

    monkeypatch.setattr(data, "load", note)
    hers = str(written(tmp_path / "hers.safetensors", f"folder:{tmp_path}"))
    with pytest.raises(UserError, match=r"not trained on one of advlab's own data sets; give one with --data\.$"):
        Spectral(settings=SpectralConfig(model=hers)).prepare()
    assert asked == []
    assert Spectral(settings=SpectralConfig(model=hers, data="mnist")).prepare().images.shape == (8, 1, 28, 28)
    mine = str(written(tmp_path / "mine.safetensors", "fashion_mnist"))
    assert Spectral(settings=SpectralConfig(model=mine, data="mnist")).prepare().images.shape == (8, 1, 28, 28)
    assert asked == ["mnist", "mnist"]


def test_a_checkpoint_is_a_regular_file(checkpoint_file: Path) -> None:
    checkpoint_file.unlink()
    os.mkfifo(checkpoint_file)  # reading it would never end
    with pytest.raises(UserError, match="is not a regular file"):
        resolve(str(checkpoint_file), "mnist", 0)


def test_a_model_of_a_study_by_the_study_s_name(checkpoint_file: Path, tmp_path: Path) -> None:
    made = Study.begin("architectures", {"seed": 0}, str(tmp_path / "sweep"))
    content = checkpoint_file.read_bytes()
    made.store.write_bytes(weights_file("mine"), content)
    found, by_path = resolve(f"study:{made.store.uri}", "mnist", 0), resolve(str(checkpoint_file), "mnist", 0)
    assert found.fingerprint == by_path.fingerprint
    other = replace(Checkpoint.from_bytes(content), recipe=replace(Checkpoint.from_bytes(content).recipe, name="other"))
    made.store.write_bytes(weights_file("other"), other.to_bytes())
    with pytest.raises(UserError, match=r"names 2 models \(mine, other…\); choose one of them with \?name=NAME"):
        resolve(f"study:{made.store.uri}", "mnist", 0)
    assert resolve(f"study:{made.store.uri}?name=other", "mnist", 0).fingerprint == found.fingerprint


def test_one_name_means_the_same_to_every_option(checkpoint_file: Path, mnist_test: Dataset) -> None:
    images = mnist_test.images[:3]
    name = str(checkpoint_file)
    answers = resolve(name, "mnist", 0).model(images)  # --model
    assert torch.equal(models.load(name)(images), answers)
    trainable = models.build(name, mnist_test)  # --network
    assert trainable.training
    assert torch.equal(trainable.eval()(images), answers)
    config = TransferConfig(models=f"{name},softmax1", split="test", examples=4, attack="minimum-norm")
    plan = transfer_plan.prepare(config)  # --models
    assert plan.models == ["mine", "softmax1"]
    assert torch.equal(plan.trained["mine"].checkpoint.network()(images), answers)


def test_other_weights_than_the_study_began_with_are_refused(checkpoint_file: Path, tmp_path: Path) -> None:
    study = Study.adopt(str(tmp_path / "out"), {"kind": "units", "config": {}})
    subject = resolve(str(checkpoint_file), "mnist", 0)
    subject.record_in(study)
    subject.record_in(Study.open(str(tmp_path / "out")))
    other = Resolved(subject.name, subject.model, "another fingerprint", "mnist", 224)
    with pytest.raises(UserError, match="differs from the one with which the study"):
        other.record_in(Study.open(str(tmp_path / "out")))
