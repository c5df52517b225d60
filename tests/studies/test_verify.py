"""Whatever is amiss in a study is found and named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch as safetensors
from findings import found, path

from advlab import data
from advlab.errors import UserError
from advlab.models.study_models import trained_by
from advlab.results.__main__ import Options, Verify, main
from advlab.store.schema import BRIEF_MATRIX, image_column
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import verify

EXAMPLES = "examples/source=softmax1/part-00000005.parquet"
PREDICTIONS = "predictions/source=softmax1/target=relu8-10/part-00000005.parquet"
OWN = "predictions/source=softmax1/target=softmax1/part-00000005.parquet"
NOISE = "predictions/source=gaussian-0.3/target=softmax1/part-00000000.parquet"
SHUFFLED = "predictions/source=shuffled-softmax1/target=softmax1/part-00000000.parquet"
WEIGHTS = "models/relu8-10.safetensors"


@pytest.fixture(scope="module")
def sound(make_study: Callable[..., TransferStudy], tmp_path_factory: pytest.TempPathFactory) -> TransferStudy:
    return make_study(tmp_path_factory.mktemp("sound") / "study")


def change(study: TransferStudy, name: str, **columns: Any) -> None:
    """Write a shard again with other rows; its checksum and its content address are right."""
    table = study.store.read_table(name)
    for column, values in columns.items():
        place = table.column_names.index(column)
        table = table.set_column(place, table.schema.field(place), values)
    study.store.write_table(name, table)


def test_a_sound_study(sound: TransferStudy) -> None:
    steps: list[tuple[int, int]] = []
    assert list(verify(sound, lambda done, total: steps.append((done, total)))) == []
    assert steps == [(done, 10) for done in range(1, 11)]


@pytest.mark.parametrize("target", ["all", "3", "random"])
def test_a_sound_study_of_another_target(target: str, make_study: Callable[..., TransferStudy], tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", models=["softmax1"], target=target)
    assert found(study) == []
    assert len(study.examples("softmax1")) == {"all": 72, "3": 8, "random": 8}[target]


@pytest.mark.parametrize("name", [EXAMPLES, PREDICTIONS, OWN, NOISE, SHUFFLED, WEIGHTS, "matrix.parquet"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "byte in the middle", "byte in the footer"])
def test_a_file_that_is_missing_or_damaged(name: str, damage: str, study: TransferStudy) -> None:
    content = bytearray(path(study, name).read_bytes())
    if damage == "missing":
        path(study, name).unlink()
    elif damage == "cut":
        path(study, name).write_bytes(content[:-100])
    elif damage == "empty":
        path(study, name).write_bytes(b"")
    else:
        content[len(content) // 2 if damage == "byte in the middle" else -150] ^= 0xFF
        path(study, name).write_bytes(content)
    assert found(study) == [(name, "missing" if damage == "missing" else "damaged")]


@pytest.mark.parametrize(
    ("name", "columns", "problem"),
    [
        (EXAMPLES, {"index": [5, 5, 7]}, "its index is wrong"),
        (EXAMPLES, {"label": [0, 0, 0]}, "its label is wrong"),
        (EXAMPLES, {"l2": [1.0, 1.0, 1.0]}, "its l2 is wrong"),
        (EXAMPLES, {"rms": [1.0, 1.0, 1.0]}, "its rms is wrong"),
        (EXAMPLES, {"linf": [float("nan")] * 3}, "its linf is wrong"),
        (EXAMPLES, {"success": [False] * 3, "survives_uint8": [True] * 3}, "survives rounding"),
        (EXAMPLES, {"image": image_column(np.full((3, 784), 1.001))}, "leaves the box"),
        (EXAMPLES, {"image": image_column(np.full((3, 784), np.nan))}, "leaves the box"),
        (EXAMPLES, {"image": image_column(np.full((3, 784), 0.5))}, "is wrong"),
        (PREDICTIONS, {"index": [7, 6, 5]}, "its index is wrong"),
        (PREDICTIONS, {"rms": [0.1, 0.1, 0.1]}, "its rms is wrong"),
        (PREDICTIONS, {"source_prediction": pa.nulls(3, pa.int64())}, "source_prediction"),
        (OWN, {"prediction": [11, 11, 11]}, "its prediction is wrong"),
        (NOISE, {"source_prediction": [1] * 5}, "source_prediction"),
        (SHUFFLED, {"label": [3] * 5}, "its label is wrong"),
    ],
)
def test_rows_that_are_wrong_in_a_file_that_is_whole(
    name: str, columns: dict[str, Any], problem: str, study: TransferStudy
) -> None:
    change(study, name, **{column: [pa.chunked_array([values])][0] for column, values in columns.items()})
    (finding, *others) = verify(study)
    assert (finding.file, finding.kind) == (name, "damaged")
    assert problem in finding.problem
    assert not others or name == OWN


def test_a_row_too_few(study: TransferStudy) -> None:
    study.store.write_table(NOISE, study.store.read_table(NOISE).slice(1))
    assert found(study) == [(NOISE, "damaged")]


def test_a_shard_of_other_columns(study: TransferStudy) -> None:
    study.store.write_table(EXAMPLES, study.store.read_table(EXAMPLES).drop_columns("c"))
    assert found(study) == [(EXAMPLES, "damaged")]


def test_a_shard_in_the_place_of_another(study: TransferStudy) -> None:
    shutil.copy(path(study, NOISE), path(study, NOISE.replace("softmax1", "relu8-10")))
    (finding,) = verify(study)
    assert finding.file == NOISE.replace("softmax1", "relu8-10")
    assert finding.problem == "its content address is that of other weights, images or settings"


def test_rows_that_would_be_counted_twice(study: TransferStudy) -> None:
    copies = [EXAMPLES.replace("00005", "00006"), "predictions/source=x/target=y/part-00000000.parquet"]
    for name in copies:
        path(study, name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path(study, PREDICTIONS), path(study, name))
    assert found(study) == [(name, "foreign") for name in copies]


def test_a_matrix_of_an_earlier_revision_lacks_the_clean_errors_alone(study: TransferStudy) -> None:
    earlier = study.matrix().select(BRIEF_MATRIX.names)
    study.store.write_table("matrix.parquet", earlier)
    assert found(study) == []
    assert study.matrix().select(BRIEF_MATRIX.names).equals(earlier)
    assert study.matrix()["clean_error_rate"].null_count == len(earlier)
    for wrong in (
        earlier.drop_columns("mean_rms"),
        earlier.set_column(3, "error_rate", pa.array([0.5] * len(earlier))),
    ):
        study.store.write_table("matrix.parquet", wrong)
        assert found(study) == [("matrix.parquet", "damaged")]


def test_a_matrix_of_other_numbers(study: TransferStudy) -> None:
    table = study.matrix()
    study.store.write_table("matrix.parquet", table.set_column(3, "error_rate", pa.array([0.5] * len(table))))
    (finding,) = verify(study)
    assert finding.problem == "its numbers are not the counts of predictions/"


def test_temporary_files_are_listed_and_harmless(study: TransferStudy) -> None:
    stray = "examples/source=softmax1/.part-00000000.parquet.0123.tmp"
    path(study, stray).write_bytes(b"half")
    (finding,) = verify(study)
    assert (finding.file, finding.kind) == (stray, "temporary")
    assert finding.is_harmless


def test_other_weights_than_the_study_was_made_with(study: TransferStudy) -> None:
    shutil.copy(path(study, "models/softmax1.safetensors"), path(study, WEIGHTS))
    assert found(study) == [(WEIGHTS, "damaged")]


def test_settings_that_were_edited(study: TransferStudy) -> None:
    study.config["seed"] = 1
    findings = found(study)
    assert findings[0] == ("study.json", "altered")
    assert (EXAMPLES, "damaged") in findings  # not of that seed


def test_models_that_were_not_ready(study: TransferStudy) -> None:
    del study.manifest["models"]["softmax1"]
    assert found(study) == [("study.json", "missing")]


def test_other_images_on_this_machine(study: TransferStudy) -> None:
    study.manifest["dataset"]["fingerprint"] = "0" * 64
    assert found(study) == [("study.json", "altered")]


def test_without_the_data_set_the_rest_is_checked(study: TransferStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise UserError("it cannot be fetched.")

    monkeypatch.setattr(data, "load", load)
    study._dataset = None
    change(study, PREDICTIONS, rms=pa.chunked_array([[0.1, 0.1, 0.1]]))
    change(study, EXAMPLES.replace("5.", "0."), image=pa.chunked_array([image_column(np.full((5, 784), -0.1))]))
    assert found(study) == [
        ("study.json", "unchecked"),
        (EXAMPLES.replace("5.", "0."), "damaged"),
        (PREDICTIONS, "damaged"),
    ]


def test_the_command_removes_what_is_damaged(study: TransferStudy, capsys: pytest.CaptureFixture[str]) -> None:
    path(study, EXAMPLES).write_bytes(b"torn")
    path(study, NOISE).unlink()
    for repair in (False, True):
        with pytest.raises(SystemExit, match="1"):
            main(Options(action=Verify(study=study.store.uri, repair=repair)))
        printed = capsys.readouterr().out.splitlines()
        end = "removed" if repair else "remove it (--repair does), then run the study again"
        assert printed[:3] == [
            f"{EXAMPLES}: its checksum is wrong; {end}",
            f"{NOISE}: it is missing; run the study again",
            "not sound: 1 damaged, 1 missing",
        ]
        assert printed[-1] == study.command
        assert path(study, EXAMPLES).exists() != repair
    with pytest.raises(SystemExit, match="1"):
        main(Options(action=Verify(study=study.store.uri)))
    assert "2 missing" in capsys.readouterr().out


def written_by_a_newer_version(study: TransferStudy, name: str, what: str) -> str:
    """Give a file what no version knows as yet; returns what it is."""
    if what == "column":
        study.store.write_table(name, (table := study.store.read_table(name)).append_column("queries", table["index"]))
        return "queries"
    content = path(study, name).read_bytes()
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    recipe = json.loads(metadata["recipe"])
    recipe |= {"precision": "float32"} if what == "field" else {"network": "advlab.models.later:Network"}
    path(study, name).write_bytes(
        safetensors.save(safetensors.load(content), metadata | {"recipe": json.dumps(recipe)})
    )
    return "precision" if what == "field" else "advlab.models.later:Network"


@pytest.mark.parametrize(
    ("name", "what"), [(WEIGHTS, "field"), (WEIGHTS, "network"), (EXAMPLES, "column"), (PREDICTIONS, "column")]
)
def test_what_a_newer_version_wrote_is_said_and_never_removed(
    name: str, what: str, study: TransferStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    told, before = written_by_a_newer_version(study, name, what), path(study, name).read_bytes()
    with pytest.raises(SystemExit, match="1"):
        main(Options(action=Verify(study=study.store.uri, repair=True)))
    finding, *rest = capsys.readouterr().out.splitlines()
    assert finding.startswith(f"{name}: ")
    assert told in finding
    assert "a newer version of advlab may have written it" in finding
    assert rest[0] == "not sound: 1 newer"
    assert path(study, name).read_bytes() == before


def test_a_network_that_the_manifest_does_not_name_is_not_a_newer_version_s(study: TransferStudy) -> None:
    study.manifest["models"]["relu8-10"]["recipe"] = trained_by(study, "relu8-10").recipe.to_json()
    written_by_a_newer_version(study, WEIGHTS, "network")
    assert found(study) == [(WEIGHTS, "damaged")]


def test_a_newer_file_that_is_damaged_is_damaged(study: TransferStudy) -> None:
    written_by_a_newer_version(study, EXAMPLES, "column")
    content = path(study, EXAMPLES).read_bytes()
    path(study, EXAMPLES).write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    assert found(study) == [(EXAMPLES, "damaged")]


def test_the_command_from_outside(sound: TransferStudy, tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "advlab.results", "verify", *arguments], capture_output=True, text=True, check=False
        )

    done = command(sound.store.uri)
    assert (done.returncode, done.stdout) == (0, "sound: 5 sources × 2 targets\n")
    (tmp_path / "study.json").write_text(json.dumps({"identity": "", "config": {}, "kind": "units"}))
    for folder, told in ((tmp_path / "none", "holds no study"), (tmp_path, "choose a transfer study")):
        done = command(str(folder))
        assert done.returncode == 2
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_command_of_a_study_means_the_same_study(sound: TransferStudy) -> None:
    words = sound.command.split()
    assert words[:2] == ["python", "sweeps/transfer_matrix.py"]
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--models"] == "softmax1,relu8-10"
    assert options["--shard-size"] == "5"
    assert options["--out"] == sound.store.uri
