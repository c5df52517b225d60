"""Parts of a study become the study; what does not belong together is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from advlab.errors import UserError
from advlab.results.__main__ import Merge, Options, main
from advlab.store import Store
from advlab.store.study import study_identity
from advlab.studies.transfer.layout import predictions_part
from advlab.studies.transfer.merge import merge
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import verify

StudyMaker = Callable[..., TransferStudy]


def content(store: Store) -> dict[str, bytes]:
    return {name: store.read_bytes(name) for name in store.files(suffix=".parquet")}


def inodes(store: Store) -> dict[str, int]:
    return {name: Path(store.path(name)).stat().st_ino for name in store.files(suffix=".parquet")}


def test_two_halves_are_the_whole(make_study: StudyMaker, tmp_path: Path) -> None:
    whole = make_study(tmp_path / "whole")
    first = make_study(tmp_path / "first", wanted=lambda name: name.endswith("0.parquet"))
    second = make_study(tmp_path / "second", wanted=lambda name: name.endswith("5.parquet"))
    steps: list[tuple[int, int]] = []
    union, missing = merge([first, second], str(tmp_path / "out"), lambda done, total: steps.append((done, total)))
    assert missing == 0
    assert steps == [(done, 6) for done in range(1, 7)]
    assert list(verify(union)) == []
    assert content(union.store) == content(whole.store)
    manifest = TransferStudy.open(union.store.uri).manifest
    assert manifest["identity"] == whole.manifest["identity"]
    assert manifest["finished"]
    assert [part["folder"] for part in manifest["merged"]] == [first.store.uri, second.store.uri]


def test_studies_of_different_models_lack_only_what_each_did_not_see(make_study: StudyMaker, tmp_path: Path) -> None:
    whole = make_study(tmp_path / "whole", models=["softmax1", "relu8-10", "fc9-10"])
    one = make_study(tmp_path / "one", models=["softmax1", "relu8-10"])
    other = make_study(tmp_path / "other", models=["fc9-10"], controls=["shuffled"])
    union, missing = merge([one, other], str(tmp_path / "out"))
    assert union.manifest["identity"] == whole.manifest["identity"]
    findings = list(verify(union))
    unseen = {(s, t) for s in ("softmax1", "relu8-10") for t in ("fc9-10",)} | {("fc9-10", t) for t in one.targets}
    unseen |= {(f"shuffled-{source}", target) for source, target in unseen} | {("gaussian-0.3", "fc9-10")}
    assert {finding.file for finding in findings} == {
        predictions_part(source, target, start) for source, target in unseen for start in (0, 5)
    }
    assert {finding.kind for finding in findings} == {"missing"}
    assert missing == len(findings)
    assert "matrix.parquet" not in union.store.files()
    assert union.manifest["finished"] is None
    held, expected = content(union.store), content(whole.store)
    assert all(held[name] == expected[name] for name in held)


def test_the_longer_study_keeps_what_the_shorter_has(make_study: StudyMaker, tmp_path: Path) -> None:
    short = make_study(tmp_path / "short", examples=8)
    long = make_study(tmp_path / "long", examples=15, wanted=lambda name: "-00000000." not in name)
    union, missing = merge([short, long], str(tmp_path / "out"))
    assert missing == 0  # the short one's last shard has other images, but the long one has that shard itself
    assert list(verify(union)) == []
    assert len(union.examples("softmax1")) == 15


def test_a_damaged_shard_is_taken_from_elsewhere(make_study: StudyMaker, tmp_path: Path) -> None:
    first, second = make_study(tmp_path / "first"), make_study(tmp_path / "second")
    for name in ("examples/source=softmax1/part-00000000.parquet", "models/softmax1.safetensors"):
        damaged = bytearray(first.store.read_bytes(name))
        damaged[len(damaged) // 3] ^= 0xFF
        first.store.write_bytes(name, bytes(damaged))
    union, missing = merge([first, second], str(tmp_path / "out"))
    assert missing == 0
    assert list(verify(union)) == []
    assert content(union.store) == content(second.store)


def test_a_link_in_place_of_a_model_is_passed_over(make_study: StudyMaker, tmp_path: Path) -> None:
    first, second = make_study(tmp_path / "first"), make_study(tmp_path / "second")
    model = tmp_path / "first/models/softmax1.safetensors"
    model.unlink()
    model.symlink_to(tmp_path / "second/models/softmax1.safetensors")
    union, missing = merge([first, second], str(tmp_path / "out"))
    assert missing == 0
    assert list(verify(union)) == []


def test_a_shard_with_wrong_rows_is_taken_from_elsewhere(make_study: StudyMaker, tmp_path: Path) -> None:
    """Its address and its checksum are right: a stranger can write both."""
    first, second = make_study(tmp_path / "first"), make_study(tmp_path / "second")
    for name, column in (
        ("examples/source=softmax1/part-00000005.parquet", "l2"),
        (predictions_part("relu8-10", "softmax1", 0), "prediction"),
        (predictions_part("gaussian-0.3", "softmax1", 0), "label"),
    ):
        table, address = first.store.read_table(name), first.store.key(name)
        place = table.schema.get_field_index(column)
        values = table.column(column) if column == "prediction" else pc.add(table.column(column), 1)
        table = table.set_column(place, table.schema.field(column), values.cast(table.schema.field(column).type))
        first.store.write_table(name, table.drop(["rms"]) if column == "prediction" else table, address)
    union, missing = merge([first, second], str(tmp_path / "out"))
    assert missing == 0
    assert list(verify(union)) == []
    assert content(union.store) == content(second.store)
    only, _ = merge([first, first], str(tmp_path / "again"))
    assert {finding.kind for finding in verify(only)} == {"missing"}


def test_predictions_do_not_go_with_other_examples(make_study: StudyMaker, tmp_path: Path) -> None:
    """Another processor may find other examples under the same content address; each pair stays together."""
    name = "examples/source=softmax1/part-00000000.parquet"
    first = make_study(tmp_path / "first", wanted=lambda part: "target=relu8-10" not in part)
    second = make_study(tmp_path / "second")
    other = second.store.read_table(name)
    second.store.write_table(name, other.set_column(8, "evaluations", [[7] * len(other)]))
    union, missing = merge([first, second], str(tmp_path / "out"))
    assert union.store.read_bytes(name) == first.store.read_bytes(name)
    unmatched = [predictions_part(source, "relu8-10", 0) for source in ("softmax1", "shuffled-softmax1")]
    assert [finding.file for finding in verify(union)] == unmatched
    assert missing == 2


def test_merging_again_goes_on(make_study: StudyMaker, tmp_path: Path) -> None:
    first = make_study(tmp_path / "first", wanted=lambda name: name.endswith("0.parquet"))
    second = make_study(tmp_path / "second", wanted=lambda name: name.endswith("5.parquet"))
    union, _ = merge([first, second], str(tmp_path / "out"))
    before = inodes(union.store)
    gone = "examples/source=relu8-10/part-00000005.parquet"
    union.store.delete(gone)
    again, missing = merge([first, second], str(tmp_path / "out"))
    assert missing == 0
    after = inodes(again.store)
    assert {name for name in after if after[name] != before[name]} <= {gone, "matrix.parquet"}
    assert list(verify(again)) == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seed": 1}, "its setting seed is 1, there 0; only models, controls and the number of examples may differ"),
        ({"target": "random"}, "its setting target is 'random', there 'nearest'"),
        ({"shard_size": 4}, "its setting shard_size is 4, there 5"),
        ({"split": "train"}, "its setting split is 'train', there 'test'"),
        ({"weights_seed": 1}, "model 'softmax1' has other weights in"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    settings: dict[str, Any], told: str, make_study: StudyMaker, tmp_path: Path
) -> None:
    first, second = make_study(tmp_path / "first"), make_study(tmp_path / "second", **settings)
    with pytest.raises(UserError) as caught:
        merge([first, second], str(tmp_path / "out"))
    assert told in str(caught.value)
    assert second.store.uri in str(caught.value)
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "out").exists()


def edited(study: TransferStudy) -> None:
    study.config["seed"] = 1


def of_another_attack(study: TransferStudy) -> None:
    study.manifest["attack"] = study.manifest["attack"] | {"max_evaluations": 1}
    study.manifest["identity"] = study_identity(study.manifest)


def not_ready(study: TransferStudy) -> None:
    del study.manifest["models"]


def of_other_images(study: TransferStudy) -> None:
    study.manifest["dataset"]["fingerprint"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edited, "its settings were edited; restore its original study.json"),
        (of_another_attack, "its attack's max_evaluations is 1, there 96"),
        (not_ready, "interrupted before its models were ready; leave it out"),
        (of_other_images, "its images are not those of mnist test on this machine"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    change: Callable[[TransferStudy], None], told: str, make_study: StudyMaker, tmp_path: Path
) -> None:
    first, second = make_study(tmp_path / "first"), make_study(tmp_path / "second")
    change(second)
    with pytest.raises(UserError, match=told):
        merge([first, second], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_out_that_holds_something_else_is_refused(make_study: StudyMaker, tmp_path: Path) -> None:
    parts = [make_study(tmp_path / "first"), make_study(tmp_path / "second")]
    taken = make_study(tmp_path / "taken", seed=1)
    with pytest.raises(UserError, match="holds another study"):
        merge(parts, taken.store.uri)
    same_but_for_its_weights = make_study(tmp_path / "weights", weights_seed=1)
    before = content(same_but_for_its_weights.store)
    with pytest.raises(UserError, match="model 'softmax1' has other weights"):
        merge(parts, same_but_for_its_weights.store.uri)
    assert content(same_but_for_its_weights.store) == before


def test_the_command(make_study: StudyMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make_study(tmp_path / "one"), make_study(tmp_path / "other", models=["fc9-10"])
    out = tmp_path / "out"
    main(Options(action=Merge(studies=[one.store.uri, other.store.uri], out=str(out))))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"3 models, 8 examples: {out}"
    assert printed[1] == "16 shards are in none of the studies; this command computes them:"
    assert printed[2].startswith("python sweeps/transfer_matrix.py --dataset mnist --split test")
    assert "--models softmax1,relu8-10,fc9-10" in printed[2]
    shutil.rmtree(out)
    main(Options(action=Merge(studies=[one.store.uri, one.store.uri], out=str(out))))
    assert capsys.readouterr().out.splitlines()[1] == "nothing is missing; the matrix is written"
    with pytest.raises(UserError, match="needs two or more studies"):
        main(Options(action=Merge(studies=[one.store.uri], out=str(out))))
