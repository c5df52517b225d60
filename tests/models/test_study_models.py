"""``study:DIR``: the models of a study by one name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advlab.errors import UserError
from advlab.models import Checkpoint, Recipe, study_models
from advlab.store import Study
from advlab.store.layout import weights_file


def model(name: str, value: float, error: float | None = None) -> Checkpoint:
    recipe = Recipe(
        name=name,
        network="advlab.models.mlp:MLP",
        network_arguments={"widths": [2, 2]},
        trainer="advlab.training.full_batch:fit",
    )
    weights = {"1.weight": torch.full((2, 2), value), "1.bias": torch.zeros(2)}
    return Checkpoint(recipe, weights, {} if error is None else {"validation_error": error})


def study(folder: Path, *models: Checkpoint) -> Study:
    made = Study.begin("architectures", {"seed": 0}, str(folder))
    for one in models:
        made.store.write_bytes(weights_file(one.recipe.name), one.to_bytes())
    return made


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A study of three models, of which it lists one."""
    made = study(
        tmp_path / "sweep",
        model("softmaxλ1e-4#0", 1, 0.08),
        model("relu5-10λ1#0", 2, 0.02),
        model("softmaxλ1#0", 3, 0.2),
    )
    made.record_model("softmaxλ1#0", model("softmaxλ1#0", 3).fingerprint)
    made.save_manifest()
    return tmp_path / "sweep"


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("", ["softmaxλ1#0", "relu5-10λ1#0", "softmaxλ1e-4#0"]),
        ("?best=2", ["relu5-10λ1#0", "softmaxλ1e-4#0"]),
        ("?name=softmax*", ["softmaxλ1#0", "softmaxλ1e-4#0"]),
        ("?name=softmax*&best=1", ["softmaxλ1e-4#0"]),
        ("?best=9", ["relu5-10λ1#0", "softmaxλ1e-4#0", "softmaxλ1#0"]),
    ],
)
def test_a_study_stands_for_its_models(selection: str, names: list[str], sweep: Path) -> None:
    expanded, found = study_models.expand(["conv", f"study:{sweep}{selection}", "softmax1"])
    assert expanded == ["conv", *names, "softmax1"]
    assert list(found) == names
    for name, one in found.items():
        assert one.checkpoint.recipe.name == name
        # what it was asked for by can be asked for again
        assert study_models.load(one.origin)[name].checkpoint.fingerprint == one.checkpoint.fingerprint


def test_a_selection_on_an_object_store_stands_behind_its_own_parameters() -> None:
    uri, chosen = study_models._parse("study:s3://bucket/a?scheme=http&best=6&endpoint_override=host%3A9000")
    assert uri == "s3://bucket/a?scheme=http&endpoint_override=host%3A9000"
    assert chosen == {"best": "6"}


def test_one_model_in_two_studies_is_one(sweep: Path, tmp_path: Path) -> None:
    study(tmp_path / "copy", model("softmaxλ1#0", 3))
    expanded, _ = study_models.expand([f"study:{sweep}", f"study:{tmp_path / 'copy'}"])
    assert len(expanded) == 3


def test_two_models_of_one_name_are_refused(sweep: Path, tmp_path: Path) -> None:
    study(tmp_path / "other", model("softmaxλ1#0", 4), model("conv", 1))
    with pytest.raises(UserError, match="names two models 'softmaxλ1#0'"):
        study_models.expand([f"study:{sweep}", f"study:{tmp_path / 'other'}"])
    with pytest.raises(UserError, match="names two models 'conv'"):
        study_models.expand(["conv", f"study:{tmp_path / 'other'}?name=conv"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("study:{empty}", "names no model: there is none in"),
        ("study:{sweep}?name=conv*", r"there is none with the name conv\* in"),
        ("study:{sweep}?best=none", "'none' is not a number of models; write e.g. study:DIR"),
        ("study:{sweep}?best=0", "'0' is not a number of models"),
        ("study:{unmeasured}?best=1", "were not measured on validation images; leave 'best' out"),
        ("study:{nowhere}", "holds no study"),
        ("study:", "holds no study"),
    ],
)
def test_what_cannot_be_had_is_named(text: str, sentence: str, sweep: Path, tmp_path: Path) -> None:
    study(tmp_path / "empty")
    study(tmp_path / "unmeasured", model("conv", 1))
    places = {name: tmp_path / name for name in ("empty", "unmeasured", "nowhere")}
    with pytest.raises(UserError, match=sentence):
        study_models.expand([text.format(sweep=sweep, **places)])


def test_a_damaged_model_is_named_and_left_as_it_is(sweep: Path) -> None:
    (damaged,) = (path for path in (sweep / "models").iterdir() if path.name.startswith("relu"))
    damaged.write_bytes(damaged.read_bytes()[:-5])
    before = contents(sweep)
    with pytest.raises(
        UserError, match=r"relu.*cannot be used \(not a complete advlab checkpoint.*run its study again"
    ):
        study_models.load(f"study:{sweep}")
    assert contents(sweep) == before
    assert len(study_models.load(f"study:{sweep}?name=softmax*")) == 2


def test_a_model_of_another_version_is_named_and_left_as_it_is(sweep: Path) -> None:
    for path in (sweep / "models").iterdir():
        path.write_bytes(path.read_bytes().replace(b'\\"split\\"', b'\\"later\\"'))
    before = contents(sweep)
    with pytest.raises(UserError, match="was written by another version of advlab: its recipe has 'later'"):
        study_models.load(f"study:{sweep}")
    assert contents(sweep) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def with_code(tmp_path: Path) -> str:
    """A study of a model with weights and one that is code."""
    made = study(tmp_path / "mixed", model("conv", 1))
    made.record_model("conv", model("conv", 1).fingerprint)
    made.record_model("file:/tmp/planted.py:make", "0" * 64)
    made.save_manifest()
    return f"study:{tmp_path / 'mixed'}"


def test_code_of_a_study_is_shown_and_left_out(with_code: str, caplog: pytest.LogCaptureFixture) -> None:
    assert study_models.expand([with_code])[0] == ["conv"]
    assert "also names 'file:/tmp/planted.py:make': code, not run; read it, and name it in `trust_code`" in caplog.text


def test_code_of_a_study_is_used_once_its_name_is_repeated(with_code: str, caplog: pytest.LogCaptureFixture) -> None:
    names, found = study_models.expand([with_code], ["file:/tmp/planted.py:make"])
    assert names == ["conv", "file:/tmp/planted.py:make"]
    assert list(found) == ["conv"]
    assert not caplog.text


def test_a_command_that_a_study_tells_runs_no_code_until_its_name_is_repeated() -> None:
    marked = "untrusted:file:/tmp/planted.py:make"
    with pytest.raises(UserError, match=r"'file:/tmp/planted\.py:make' is code that a study names; read it"):
        study_models.expand([marked])
    with pytest.raises(UserError, match="is code that a study names"):
        study_models.expand([marked], ["file:/tmp/another.py:make"])
    assert study_models.expand([marked, "conv"], ["file:/tmp/planted.py:make"])[0] == [marked[10:], "conv"]


def test_the_network_of_a_model_is_checked_before_a_study_begins_with_it(tmp_path: Path) -> None:
    honest = model("conv", 1)
    for network, told in (("os:system", "is unknown here"), ("advlab.models.convnet:ConvNet", "arguments are not")):
        study(tmp_path / network, replace(honest, recipe=replace(honest.recipe, network=network)))
        with pytest.raises(UserError, match=f"model 'conv' cannot be built: .*{told}"):
            study_models.load(f"study:{tmp_path / network}")
