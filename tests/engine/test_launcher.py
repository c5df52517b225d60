"""Resumption of training: only from the checkpoints of its own folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from advlab.engine import launcher, tune
from advlab.errors import UserError
from advlab.store import Store, Study

NOTES = "train/checkpoint_manager_snapshot.json"


def notes(name: Any) -> str:
    """As Ray Train writes them."""
    result = {"version": 0, "checkpoint_dir_name": name, "metrics": {"step": 3}}
    return json.dumps({"checkpoint_results": [result], "latest_checkpoint_result": result})


def test_checkpoints_of_its_own_are_gone_on_from(tmp_path: Path) -> None:
    store = Store(tmp_path)
    launcher._require_own_checkpoints(store, "train")
    store.write_bytes(NOTES, notes("checkpoint_2026-11-28_14-57-46.123456").encode())
    launcher._require_own_checkpoints(store, "train")


@pytest.mark.parametrize(
    "content",
    [
        notes("../../precious"), notes("/etc"), notes(".."), notes("checkpoint_/../../x"), notes(""), notes(3), "{",
        json.dumps({"validated_checkpoint_dir_names": ["../precious"]}), "[" * 100_000,
    ],
)  # fmt: skip
def test_checkpoints_elsewhere_are_neither_read_nor_deleted(content: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_bytes(NOTES, content.encode())
    with pytest.raises(UserError, match="is not as Ray Train left it"):
        launcher._require_own_checkpoints(store, "train")


def begun(folder: Path) -> Study:
    return Study.begin("quocnet", {"seed": 0}, str(folder))


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("inside", [False, True])
def test_checkpoints_are_not_looked_for_behind_a_link(alone: bool, inside: bool, tmp_path: Path) -> None:
    """The last checkpoint of another run is what would be read, and what would be removed after the next."""
    study, own = begun(tmp_path / "study"), tmp_path / "another run"
    kept = own / "step-00000100" / "state.pt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    place = tmp_path / "study" / (launcher.ALONE if alone else "train")
    if inside:
        place.mkdir()
        place = place / "step-00000200"
    place.symlink_to(own)

    def work(*_: Any) -> None:
        raise AssertionError("it was begun")

    with pytest.raises(UserError, match="a link that leads out of the study; remove it"):
        launcher.launch(study, work, {}, launcher.TrainLayout(alone=alone), 1)
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("what", ["pipe", "link"])
def test_notes_of_ray_train_are_not_read_elsewhere(what: str, tmp_path: Path) -> None:
    study, place = begun(tmp_path / "study"), tmp_path / "study" / NOTES
    place.parent.mkdir()
    if what == "pipe":
        os.mkfifo(place)
    else:
        (tmp_path / "notes.json").write_text(notes("../../precious"))
        place.symlink_to(tmp_path / "notes.json")
    with pytest.raises(UserError, match=r"checkpoint_manager_snapshot\.json' is a pipe, a device, or a link"):
        launcher.launch(study, lambda *_: None, {}, launcher.TrainLayout(), 1)


def test_tune_writes_nothing_behind_a_link(tmp_path: Path) -> None:
    study = begun(tmp_path / "study")
    (tmp_path / "study" / "tune").symlink_to(tmp_path)
    with pytest.raises(UserError, match="a link that leads out of the study"):
        tune.notes_folder(study, "sweep")
