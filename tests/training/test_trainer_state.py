"""A trainer's state from anybody: no larger than its file, and one sentence where it is not one."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from advlab.errors import UserError
from advlab.store import Store
from advlab.training import trainer_state


def packed(path: Path) -> None:
    """The same archive as ``torch.save`` writes, its zeros compressed."""
    torch.save({"network": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def nested(path: Path) -> None:
    found: list[object] = ["x"]
    for _ in range(30):
        found = [found] * 10
    torch.save({"network": found}, path)


def linked(path: Path) -> None:
    torch.save({"step": 3}, path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (packed, "it is compressed"),
        (lambda path: torch.save({"network": torch.ones(1).expand(10**12)}, path), "more numbers than it has"),
        (lambda path: torch.save({str(i): torch.ones(9999)[:] for i in range(2)}, path), ""),
        (nested, "more numbers than it has"),
        (linked, "is not within the study's folder"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: path.write_bytes(b"torn"), "not a zip file"),
        (lambda path: torch.save([1], path), "it holds a list"),
    ],
)
def test_what_a_state_takes_is_known_before_it_is_read(
    make: Callable[[Path], None], fault: str, tmp_path: Path
) -> None:
    store = Store(tmp_path / "checkpoint")
    store.write_bytes("other", b"")
    make(tmp_path / "checkpoint" / "state.pt")
    if fault:
        with pytest.raises(UserError, match=rf"state\.pt' cannot be read \(.*{fault}.*remove it, and training"):
            trainer_state.read(store, "state.pt")
    else:
        assert set(trainer_state.read(store, "state.pt")) == {"0", "1"}


@pytest.mark.parametrize("step", [-1, 11, 3.0, "3", None, True])
def test_a_step_that_is_none_of_the_run_s(step: object) -> None:
    assert trainer_state.step({"step": 10}, 10) == 10
    with pytest.raises(UserError, match="cannot be read"), trainer_state.restoring("state.pt"):
        trainer_state.step({"step": step}, 10)
