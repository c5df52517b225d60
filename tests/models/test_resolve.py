"""The model a study is about, by every kind of name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from advlab.errors import UserError
from advlab.models import Checkpoint, Recipe
from advlab.models.resolve import Resolved, resolve
from advlab.store import Study


@pytest.fixture
def checkpoint_file(tmp_path: Path) -> Path:
    recipe = Recipe(
        name="mine", network="advlab.models.mlp:MLP", network_arguments={"widths": [784, 10]}, trainer="none:at_all"
    )
    path = tmp_path / "mine.safetensors"
    path.write_bytes(Checkpoint(recipe, dict(recipe.build().state_dict()), {}).to_bytes())
    return path


def test_a_checkpoint_by_its_path(checkpoint_file: Path) -> None:
    subject = resolve(str(checkpoint_file), "mnist", 0)
    assert subject.own_data == "mnist"
    assert subject.model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    checkpoint_file.write_bytes(b"torn")
    with pytest.raises(UserError, match="is no checkpoint of this program"):
        resolve(str(checkpoint_file), "mnist", 0)


def test_other_weights_than_the_study_began_with_are_refused(checkpoint_file: Path, tmp_path: Path) -> None:
    study = Study.adopt(str(tmp_path / "out"), {"kind": "units", "config": {}})
    subject = resolve(str(checkpoint_file), "mnist", 0)
    subject.record_in(study)
    subject.record_in(Study.open(str(tmp_path / "out")))
    other = Resolved(subject.name, subject.model, "another fingerprint", "mnist", 224)
    with pytest.raises(UserError, match="is another than when the study"):
        other.record_in(Study.open(str(tmp_path / "out")))
