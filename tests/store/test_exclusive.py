"""Of several commands that begin at one moment in one place, one does."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from advlab.errors import UserError
from advlab.store import Store, Study, exclusive

COMMANDS = 4


def begin_at_once(folder: Path) -> Counter[str]:
    """What so many commands with different seeds are told."""
    barrier = threading.Barrier(COMMANDS)

    def begin(seed: int) -> str:
        barrier.wait()
        try:
            Study.begin("units", {"seed": seed}, str(folder))
        except UserError as error:
            assert "holds another study (its seed is" in str(error)  # noqa: PT017
            return "refused"
        return "begun"

    with ThreadPoolExecutor(COMMANDS) as threads:
        return Counter(threads.map(begin, range(COMMANDS)))


def as_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every store think that its folder is one: no renaming, no links."""
    monkeypatch.setattr(exclusive, "_PAUSE", 0.01)
    init = Store.__init__

    def remote(self: Store, *arguments: object, **options: object) -> None:
        init(self, *arguments, **options)  # type: ignore[arg-type]
        os.makedirs(self.root, exist_ok=True)
        self.is_local = False

    def put(self: Store, relative: str, content: bytes) -> None:
        """Whole or not at all, as object stores write."""
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(self.root), delete=False) as draft:
            draft.write(content)
        os.replace(draft.name, self.path(relative))

    monkeypatch.setattr(Store, "__init__", remote)
    monkeypatch.setattr(Store, "write_bytes", put)


@pytest.mark.parametrize("kind", ["disk", "disk without links", "object store"])
def test_one_of_several_studies_begins(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "object store":
        as_object_store(monkeypatch)
    if kind == "disk without links":

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", refuse)
    for number in range(10):
        folder = tmp_path / str(number)
        told = begin_at_once(folder)
        assert told["begun"] == 1, told
        assert [path.name for path in folder.iterdir()] == ["study.json"]
        identity = json.loads((folder / "study.json").read_text())["identity"]
        assert Study.open(str(folder)).manifest["identity"] == identity


def test_the_same_study_is_continued_by_whoever_comes_later(tmp_path: Path) -> None:
    barrier = threading.Barrier(COMMANDS)

    def begin(_: int) -> str:
        barrier.wait()
        identity: str = Study.begin("units", {"seed": 0}, str(tmp_path / "one")).manifest["identity"]
        return identity

    with ThreadPoolExecutor(COMMANDS) as threads:
        assert len(set(threads.map(begin, range(COMMANDS)))) == 1


def test_a_claim_counts_until_it_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_object_store(monkeypatch)
    store = Store(tmp_path)
    killed = tmp_path / ".study.json.0.tmp"
    killed.touch()
    os.utime(killed, (time.time() - exclusive.EXPIRY - 5,) * 2)
    assert store.create_json("study.json", {"seed": 0})
    assert not killed.exists()
    assert not store.create_json("study.json", {"seed": 1})
    assert store.read_json("study.json") == {"seed": 0}

    store.delete("study.json")
    alive = tmp_path / ".study.json.0.tmp"  # its name comes first
    alive.touch()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(store.create_json, "study.json", {"seed": 2})
        time.sleep(0.3)
        assert not waiting.done()
        assert not store.exists("study.json")
        alive.unlink()
        assert waiting.result(timeout=60)


def test_a_refused_command_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    Study.begin("units", {"seed": 0}, str(tmp_path))
    before = tmp_path.stat().st_mtime_ns
    with pytest.raises(UserError, match="holds another study"):
        Study.begin("units", {"seed": 1}, str(tmp_path))
    assert tmp_path.stat().st_mtime_ns == before
