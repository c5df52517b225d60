"""Resumption of training: only from the checkpoints of its own folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from advlab.engine import launcher
from advlab.errors import UserError
from advlab.store import Store

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
