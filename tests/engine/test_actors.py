"""Actors whose machine can no longer do the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advlab.engine.actors import Actors, PoolOptions
from advlab.errors import UserError

COMPLAINT = "does not see 'study.json'; choose an --out that all machines share"


class Lone(Actors):
    """Actors that have worked already, on a machine that Ray is not asked for."""

    def __init__(self, folder: Path, *, elastic: bool) -> None:
        self.options, self.elastic, self.actors = PoolOptions(), elastic, {0: None}
        self.required_file, self.file_seen = (str(folder), "study.json"), True
        self.restore = lambda: (folder / "study.json").write_text("{}")
        self._alive, self._proven, self._unfit, self._init_failures = {0}, True, {}, 0

    def kill(self, actors: Any) -> None:
        for actor in list(actors):
            self.actors.pop(actor)

    def room(self) -> int:
        return 0


@pytest.mark.parametrize("elastic", [False, True])
def test_a_study_that_was_removed_under_way_is_reported(elastic: bool, tmp_path: Path) -> None:
    """No machine sees it any more: waiting for one that does would be for ever."""
    with pytest.raises(UserError, match=r"study\.json' was removed while its study was running; it is written again"):
        Lone(tmp_path, elastic=elastic).reported(0, "node", "127.0.0.1", COMPLAINT)
    assert (tmp_path / "study.json").exists()


def test_the_last_machine_cannot_do_the_work_any_more(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(UserError, match="and there is no other machine; choose an --out"):
        Lone(tmp_path, elastic=False).reported(0, "node", "127.0.0.1", COMPLAINT)
    growing = Lone(tmp_path, elastic=True)
    growing.reported(0, "node", "127.0.0.1", COMPLAINT)
    assert growing.actors == {}  # and others may come
