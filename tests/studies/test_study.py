"""A study's folder: begun, continued, refused, read back."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from advlab.attacks import registry
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.rows import examples_from_arrow, examples_to_arrow, predictions_to_arrow
from advlab.transfer import controls
from advlab.transfer.evaluate import Answers
from advlab.transfer.generate import Examples, distortion


def manifest(**config: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "dataset": "mnist",
        "split": "test",
        "examples": 20,
        "models": ["softmax1", "file:a b.py:make"],
        "controls": ["gaussian-0.1", "shuffled"],
        "seed": 0,
    }
    return {"kind": "transfer", "config": settings | config, "started": "now"}


def examples_of(clean: Dataset, seed: int = 0) -> Examples:
    """Random distortions with every column filled."""
    generator = np.random.default_rng(seed)
    rows = len(clean)
    images = generator.random(clean.images.shape, np.float32)
    return Examples(
        index=clean.index.numpy(),
        label=clean.labels.numpy(),
        target=generator.integers(0, 10, rows),
        success=generator.random(rows) < 0.5,
        c=np.where(generator.random(rows) < 0.3, np.nan, generator.random(rows)),
        evaluations=generator.integers(0, 100, rows),
        survives_uint8=generator.random(rows) < 0.5,
        images=images,
        **distortion(clean.images.numpy(), images),
    )


def assert_equal(first: Examples, second: Examples) -> None:
    for name in Examples.__slots__:
        one, other = getattr(first, name), getattr(second, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)  # equal bits, NaN where NaN


def test_begin_then_continue(tmp_path: Path) -> None:
    first = TransferStudy.adopt(str(tmp_path / "s"), manifest())
    first.manifest["note"] = "of the first run"
    first.save_manifest()
    second = TransferStudy.adopt(str(tmp_path / "s"), manifest() | {"started": "later"})
    (resumed,) = second.manifest.pop("resumed")
    assert resumed["command"] == sys.argv
    assert second.manifest == {**first.manifest, "finished": None}
    assert second.manifest["started"] == "now"
    assert TransferStudy.open(str(tmp_path / "s")).manifest == {**second.manifest, "resumed": [resumed]}


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (manifest(seed=1), "its seed is 0, here 1"),
        (manifest(models=["conv"]), r"its models is \['softmax1', 'file:a b.py:make'\], here \['conv'\]"),
        (manifest(extra=True), "its extra is None, here True"),
        (manifest() | {"kind": "units"}, "a transfer study"),
    ],
)
def test_another_study_in_the_same_place_is_refused(tmp_path: Path, other: dict[str, Any], difference: str) -> None:
    TransferStudy.adopt(str(tmp_path), manifest())
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(UserError, match=rf"holds another study \({difference}\); choose another folder"):
        TransferStudy.adopt(str(tmp_path), other)
    assert (tmp_path / "study.json").read_bytes() == before


def test_what_a_study_is_does_not_hang_on_tuples_or_order(tmp_path: Path) -> None:
    TransferStudy.adopt(str(tmp_path), manifest())
    again = manifest()
    again["config"] = dict(reversed(list(again["config"].items()))) | {"controls": ("gaussian-0.1", "shuffled")}
    assert TransferStudy.adopt(str(tmp_path), again).targets == ["softmax1", "file:a b.py:make"]


def test_a_folder_with_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds files but no study\.json; choose an empty or new folder"):
        TransferStudy.adopt(str(tmp_path), manifest())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", "no json", '{"identity": 1, "config": {}}', "\udcff"])
def test_a_foreign_study_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.json").write_bytes(content.encode(errors="surrogateescape"))
    for open_study in (
        lambda: TransferStudy.adopt(str(tmp_path), manifest()),
        lambda: TransferStudy.open(str(tmp_path)),
    ):
        with pytest.raises(UserError, match=r"study\.json' is not a study of advlab"):
            open_study()


def test_a_study_whose_identity_was_edited_is_refused(tmp_path: Path) -> None:
    study = TransferStudy.adopt(str(tmp_path), manifest())
    study.manifest["identity"] = "0" * 64
    study.save_manifest()
    with pytest.raises(UserError, match=r"another study \(its settings were edited\)"):
        TransferStudy.adopt(str(tmp_path), manifest())


def test_opening_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no study: there is no study\.json in it"):
        TransferStudy.open(str(tmp_path / "nothing"))


def test_sources_and_targets_in_display_order(tmp_path: Path) -> None:
    study = TransferStudy.adopt(str(tmp_path), manifest())
    assert study.targets == ["softmax1", "file:a b.py:make"]
    assert study.sources == [*study.targets, "gaussian-0.1", "shuffled-softmax1", "shuffled-file:a b.py:make"]
    assert [study.is_control(source) for source in study.sources] == [False, False, True, True, True]


@pytest.mark.parametrize("repeats", [1, 3])
def test_examples_round_trip(mnist_test: Dataset, repeats: int) -> None:
    clean = mnist_test.subset(slice(7))
    clean = clean.subset(clean.index.repeat_interleave(repeats))
    before = examples_of(clean)
    table = examples_to_arrow(before)
    assert table.column("c").null_count == np.isnan(before.c).sum()
    assert_equal(examples_from_arrow(table), before)
    sliced = examples_from_arrow(table.slice(2, 3))
    np.testing.assert_array_equal(sliced.images, before.images[2:5])


def test_examples_round_trip_through_files_in_order(tmp_path: Path, mnist_test: Dataset) -> None:
    study = TransferStudy.adopt(str(tmp_path), manifest(examples=20))
    before = examples_of(mnist_test.subset(slice(20)))
    table = examples_to_arrow(before)
    for source, folder in (("softmax1", "softmax1"), ("file:a b.py:make", "file%3Aa%20b.py%3Amake")):
        for start in (8, 0, 16):
            part = f"examples/source={folder}/part-{start:08d}.parquet"
            study.store.write_table(part, table.slice(start, 8))
        assert_equal(examples_from_arrow(study.examples(source)), before)
        assert study.examples(source, ["index", "rms"], limit=10).column("index").to_pylist() == list(range(10))
    np.testing.assert_array_equal(study.images(study.examples("softmax1", limit=3)), before.images[:3])
    np.testing.assert_array_equal(study.clean_images(np.array([3, 1])), mnist_test.images[[3, 1]].numpy())


@pytest.mark.parametrize("limit", [None, 5])
def test_examples_of_controls_are_computed_again(tmp_path: Path, mnist_test: Dataset, limit: int | None) -> None:
    study = TransferStudy.adopt(str(tmp_path), manifest())
    clean = mnist_test.subset(slice(20))
    attacked = examples_of(clean)
    study.store.write_table("examples/source=softmax1/part-00000000.parquet", examples_to_arrow(attacked))
    for source in ("gaussian-0.1", "shuffled-softmax1"):
        expected = controls.make(source, clean, attacked, seed=0)
        table = study.examples(source, limit=limit)
        assert len(table) == (limit or 20)
        np.testing.assert_array_equal(study.images(table), expected.images[:limit])
        assert study.examples(source, ["rms"], limit).column_names == ["rms"]


def test_reading_what_is_not_there_yet(tmp_path: Path) -> None:
    study = TransferStudy.adopt(str(tmp_path), manifest())
    with pytest.raises(UserError, match=r"holds no rows in examples/source=softmax1; run the study to its end first"):
        study.examples("softmax1")


@pytest.mark.parametrize("control", [False, True])
def test_predictions_round_trip(tmp_path: Path, mnist_test: Dataset, control: bool) -> None:
    study = TransferStudy.adopt(str(tmp_path), manifest())
    examples = examples_of(mnist_test.subset(slice(6)))
    generator = np.random.default_rng(1)
    clean, distorted, own = (
        Answers(generator.integers(0, 10, 6), generator.standard_normal(6).astype(np.float32)) for _ in range(3)
    )
    table = predictions_to_arrow(examples, clean, distorted, None if control else own)
    study.store.write_table("predictions/source=a/target=b/part-00000000.parquet", table, "key")
    read = study.predictions("a", "b")
    assert read.column("clean_prediction").to_pylist() == clean.prediction.tolist()
    assert read.column("prediction").to_pylist() == distorted.prediction.tolist()
    assert read.column("source_prediction").to_pylist() == ([None] * 6 if control else own.prediction.tolist())
    assert read.column("margin").to_pylist() == distorted.margin.tolist()
    assert read.column("rms").to_pylist() == examples.rms.tolist()
    assert read.schema.field("margin").type == pa.float32()


def test_attacked_images_survive_the_round_trip_to_the_bit(mnist_test: Dataset) -> None:
    clean = mnist_test.subset(slice(2))
    found = registry.resolve("lbfgs")(
        lambda x: x.flatten(1)[:, 300:310] * 10, clean.images, clean.labels, "random", (0.0, 1.0), seed=0, index=None
    )
    images = found.images.numpy()
    before = examples_of(clean)
    before = Examples(**{name: getattr(before, name) for name in Examples.__slots__} | {"images": images})
    np.testing.assert_array_equal(examples_from_arrow(examples_to_arrow(before)).images, images)


def test_a_command_tells_code_as_untrusted_and_no_options_but_its_own(tmp_path: Path) -> None:
    models = ["softmax1", "file:a b.py:make", "conv,python:os:abort", "study"]
    study = TransferStudy.adopt(
        str(tmp_path), manifest(models=models, address="ray://elsewhere", split="--trust-code=x")
    )
    study.manifest["models"] = {"study": {"fingerprint": "0", "origin": "file:/tmp/planted.py:make"}}
    words = shlex.split(study.command)
    named = words[words.index("--models") + 1].split(",")
    assert named == [
        "softmax1", "untrusted:file:a b.py:make", "conv", "untrusted:python:os:abort",
        "untrusted:file:/tmp/planted.py:make",
    ]  # fmt: skip
    assert "--address" not in words
    assert "--split=--trust-code=x" in words  # one word, not an option
