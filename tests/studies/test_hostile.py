"""A stranger's study: nothing outside of it is touched, nothing takes all memory, and every fault has a name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from findings import found, path

from advlab.errors import UserError
from advlab.models.study_models import trained_by
from advlab.results.__main__ import Options, Verify, main
from advlab.store import Store, bounds, parquet
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import verify

EXAMPLES = "examples/source=softmax1/part-00000000.parquet"
PREDICTIONS = "predictions/source=softmax1/target=softmax1/part-00000000.parquet"


@pytest.fixture(scope="module")
def sound(make_study: Callable[..., TransferStudy], tmp_path_factory: pytest.TempPathFactory) -> TransferStudy:
    folder = tmp_path_factory.mktemp("sound") / "study"
    return make_study(folder, models=["softmax1"], examples=4, controls=["gaussian-0.3"])


def edited(study: TransferStudy, **settings: object) -> TransferStudy:
    study.manifest["config"] |= settings
    study.save_manifest()
    return TransferStudy.open(study.store.uri)


@pytest.mark.parametrize("what", ["pipe", "link to a file", "link to a device", "sparse file"])
def test_what_is_no_file_of_the_study_is_a_finding(what: str, study: TransferStudy, tmp_path: Path) -> None:
    place, outside = path(study, EXAMPLES), tmp_path / "outside.parquet"
    shutil.move(place, outside)
    if what == "pipe":
        os.mkfifo(place)
    elif what == "sparse file":
        with place.open("wb") as stream:
            stream.truncate(6 * 2**30)
    else:
        place.symlink_to(outside if what == "link to a file" else "/dev/zero")
    assert (EXAMPLES, "damaged") in found(study)
    with pytest.raises(SystemExit, match="1"):
        main(Options(action=Verify(study=study.store.uri, repair=True)))
    assert not place.is_symlink()
    assert outside.exists()


def test_a_folder_that_lies_elsewhere_is_neither_read_nor_repaired(study: TransferStudy, tmp_path: Path) -> None:
    shutil.move(path(study, "examples"), tmp_path / "elsewhere")
    path(study, "examples").symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.joinpath("elsewhere").rglob("*"))
    assert (EXAMPLES, "damaged") in found(study)
    with pytest.raises(SystemExit, match="1"):
        main(Options(action=Verify(study=study.store.uri, repair=True)))
    assert sorted(tmp_path.joinpath("elsewhere").rglob("*")) == before
    with pytest.raises(OSError, match="is not within the study's folder"):
        study.store.write_bytes(EXAMPLES, b"x")


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "a\0b", "\udc80"])
def test_names_that_lead_out_of_a_store(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"of the user")
    store = Store(tmp_path / "study")
    for act in (store.read_bytes, store.delete, lambda name: store.write_bytes(name, b"x")):
        with pytest.raises(OSError, match="is not within the study's folder"):
            act(name)
    assert (tmp_path / "outside").read_bytes() == b"of the user"


@pytest.mark.parametrize(
    "table",
    [
        pa.table({name: np.zeros(8_000_000, np.int64) for name in "abcde"}),
        pa.table({"a": pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), pa.array(["x" * 1_000_000]))}),
    ],
)
def test_a_small_file_of_very_many_rows_is_not_read(table: pa.Table, study: TransferStudy) -> None:
    study.store.write_bytes("matrix.parquet", parquet.encode(table))
    assert path(study, "matrix.parquet").stat().st_size < 2**19
    with pytest.raises(bounds.Oversized):
        study.store.read_table("matrix.parquet")
    assert ("matrix.parquet", "unread") in found(study)
    with pytest.raises(UserError, match="damaged"):
        study.matrix()


def test_a_footer_that_ends_pyarrow_is_a_finding(study: TransferStudy) -> None:
    """Its statistics have more levels than the column."""
    content = path(study, PREDICTIONS).read_bytes()
    footer, _ = bounds._struct(memoryview(content), len(content) - parquet.footer_size(content), 0)
    histogram = footer[4][0][1][0][3][16]
    assert [len(histogram.get(field, [])) for field in (2, 3)] == [0, 2] or histogram
    leaf = bounds._leaves(footer[2])[0]
    footer[4][0][1][0][3][16] = {3: [1] * (leaf.nullable + 2)}
    with pytest.raises(bounds.Damaged, match="contradicts itself"):
        bounds._column(memoryview(content), leaf, footer[4][0][1][0])


def test_more_shards_than_there_can_be_files(study: TransferStudy) -> None:
    altered = edited(study, examples=10**12)
    kinds = [finding.kind for finding in verify(altered) if finding.file == "study.json"]
    assert "altered" in kinds
    without = edited(study, examples=10**12, dataset="folder:/nowhere")
    told = [finding.problem for finding in verify(without) if finding.kind == "altered"]
    assert any("only existing shards are checked" in problem for problem in told)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"models": ["softmax1\x1b[2J"]}, r"its config has control characters: softmax1\x1b[2J"),
        ({"models": ["\ud800"]}, "has control characters"),
        ({"models": ["x" * 300]}, "a name has 300 characters"),
        ({"models": [f"m{i}" for i in range(2001)]}, "it has 2,001 models"),
        ({"controls": ["gaussian-0.3", "rm -rf"]}, "unknown control"),
        ({"examples": -1}, "its examples is -1"),
        ({"shard_size": 0}, "its shard_size is 0"),
        ({"target": "-5"}, "its target is"),
        ({"seed": True}, "its seed is True"),
    ],
)
def test_settings_that_no_study_has(settings: dict[str, object], told: str, study: TransferStudy) -> None:
    with pytest.raises(UserError) as caught:
        edited(study, **settings)
    assert told in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, "[" * 100 + "]" * 100, "1" * 5000, " " * 2**24 + "{}"]
)
def test_json_that_is_too_deep_or_too_large(content: str, study: TransferStudy) -> None:
    path(study, "study.json").write_text(content)
    with pytest.raises(UserError, match=r"study\.json' is not a study of advlab"):
        TransferStudy.open(study.store.uri)


def test_names_of_files_reach_the_terminal_spelt_out(study: TransferStudy, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("\x1b[2K\rsound", "\udcff", "x" * 240):
        shutil.copy(path(study, PREDICTIONS), path(study, PREDICTIONS).with_name(f"{name}.parquet"))
    with pytest.raises(SystemExit, match="1"):
        main(Options(action=Verify(study=study.store.uri)))
    printed = capsys.readouterr().out
    assert r"\x1b[2K\rsound.parquet: it is not part of the study" in printed
    assert all(line.isprintable() for line in printed.splitlines())


def test_a_recipe_or_report_other_than_the_manifest_s(study: TransferStudy) -> None:
    made = trained_by(study, "softmax1")
    for key, value in (("recipe", made.recipe.to_json() | {"seed": 7}), ("report", {"test_error": 0.5})):
        study.manifest["models"]["softmax1"] = {"fingerprint": made.fingerprint, key: value}
        assert found(study) == [("models/softmax1.safetensors", "damaged")]


def test_every_byte_of_answers_is_verified_when_they_are_read(study: TransferStudy) -> None:
    content = bytearray(path(study, PREDICTIONS).read_bytes())
    for position in range(0, len(content), 97):
        content[position] ^= 1
        path(study, PREDICTIONS).write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            study.predictions("softmax1", "softmax1")
        content[position] ^= 1


def test_images_that_are_not_the_study_s_are_not_shown(study: TransferStudy) -> None:
    """A study may name any folder of the reader's: its images would be in the report."""
    study.manifest["dataset"]["fingerprint"] = "0" * 64
    study._dataset = None
    with pytest.raises(UserError, match=r"are not those of 'mnist' test on this machine"):
        study.clean_images(np.arange(2))


def test_memory_may_be_bounded(study: TransferStudy) -> None:
    with pytest.raises(UserError, match="--memory 0 is impossible"):
        main(Options(action=Verify(study=study.store.uri, memory=0)))
    study.store.memory = 2**10
    assert {kind for _, kind in found(study)} == {"unread"}
    assert json.loads(path(study, "study.json").read_text())["kind"] == "transfer"
