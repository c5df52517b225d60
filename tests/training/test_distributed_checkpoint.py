"""Distributed checkpoints from anybody: read as data, never run."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advlab.errors import UserError
from advlab.training import distributed_checkpoint, quocnet_parallel


class Marks:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def network(value: float) -> nn.Module:
    made = nn.Linear(3, 2)
    nn.init.constant_(made.weight, value)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of step 7, with rates of 0.25."""
    trained = network(3.0)
    optimiser = quocnet_parallel.optimiser("adam-mini", trained, 0.25)
    trained(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    quocnet_parallel.save(tmp_path / "checkpoint", trained, optimiser, 7)
    return tmp_path / "checkpoint"


def load(folder: Path) -> tuple[nn.Module, torch.optim.Optimizer, int]:
    fresh = network(0.0)
    optimiser = quocnet_parallel.optimiser("adam-mini", fresh, 0.5)
    return fresh, optimiser, quocnet_parallel.load(folder, fresh, optimiser)


def test_what_was_saved_is_read(folder: Path) -> None:
    loaded, optimiser, step = load(folder)
    assert step == 7
    assert optimiser.param_groups[0]["lr"] == 0.25
    assert (
        optimiser.param_groups[0]["betas"]
        == quocnet_parallel.optimiser("adam-mini", loaded, 1).param_groups[0]["betas"]
    )
    assert {name for name, state in optimiser.state_dict()["state"].items() if state} == {0, 1}
    again = network(0.0)
    distributed_checkpoint.read({"model": again.state_dict()}, folder)
    for one, other in zip(loaded.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    assert float(loaded.weight[0, 0]) not in (0.0, 3.0)  # type: ignore[index, arg-type]


def test_notes_that_would_run_code_do_not(folder: Path, tmp_path: Path) -> None:
    notes = folder / ".metadata"
    content = pickle.loads(notes.read_bytes())
    for planted in (Marks(tmp_path / "ran"), {"state_dict_metadata": Marks(tmp_path / "ran")}):
        notes.write_bytes(pickle.dumps(planted))
        with pytest.raises(UserError, match=r"cannot be read \(its \.metadata is not that of a checkpoint"):
            load(folder)
    content.planner_data = Marks(tmp_path / "ran")  # all else as it should be
    notes.write_bytes(pickle.dumps(content))
    assert load(folder)[2] == 7
    assert not (tmp_path / "ran").exists()


def test_values_that_would_run_code_do_not(folder: Path, tmp_path: Path) -> None:
    notes = pickle.loads((folder / ".metadata").read_bytes())
    (place,) = (place for index, place in notes.storage_data.items() if index.fqn == "optimiser.param_groups.0.lr")
    planted = io.BytesIO()
    torch.save(Marks(tmp_path / "ran"), planted)
    place.relative_path, place.offset, place.length = "planted.distcp", 0, len(planted.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(notes))
    (folder / "planted.distcp").write_bytes(planted.getvalue())
    with pytest.raises(UserError, match="cannot be read"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "..", ".", "", "sub/file"])
def test_files_outside_of_the_checkpoint_are_not_read(path: str, folder: Path) -> None:
    notes = pickle.loads((folder / ".metadata").read_bytes())
    for place in notes.storage_data.values():
        place.relative_path = path
    (folder / ".metadata").write_bytes(pickle.dumps(notes))
    with pytest.raises(UserError, match="is not a file of the checkpoint"):
        load(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda content: content[: len(content) // 2],
        lambda _: b"\x80\x04r\xff\xff\xff\xff.",  # a memo of four billion places
        lambda _: b"\x80\x04\x8d" + b"\xff" * 8,  # a string of 2⁶⁴ bytes
        lambda _: b"\x80\x04(" + b"".join(b"c\n%d\n" % number for number in range(200)) + b"l.",  # 200 types
        lambda _: b"\0" * (1 << 25),
        lambda content: content.replace(b"float32", b"manual_"),
        lambda content: content.replace(b"ChunkStorageMetadata", b"KnuhcStorageMetadata"),
    ],
)
def test_damaged_notes_are_one_sentence(damage: Callable[[bytes], bytes], folder: Path) -> None:
    notes = folder / ".metadata"
    notes.write_bytes(damage(notes.read_bytes()))
    with pytest.raises(UserError, match="cannot be read"):
        load(folder)


def test_another_network_is_one_sentence(folder: Path) -> None:
    other = nn.Linear(5, 2)
    with pytest.raises(UserError, match="cannot be read"):
        quocnet_parallel.load(folder, other, quocnet_parallel.optimiser("adam-mini", other, 0.5))
    (folder / ".metadata").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load(folder)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("what", ["pipe", "link", "holes", "packed"])
def test_files_that_are_not_plain_are_not_read(what: str, name: str, folder: Path, tmp_path: Path) -> None:
    file = folder / name
    content = file.read_bytes()
    file.unlink()
    if what == "pipe":
        os.mkfifo(file)
    elif what == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    elif what == "holes":
        with file.open("wb") as stream:
            stream.truncate(6 * 2**30)
    else:
        file.write_bytes(content)
        _pack(folder)
    with pytest.raises(UserError, match=r"cannot be read|is a pipe, a device, or a link"):
        load(folder)


def _pack(folder: Path) -> None:
    """Compress the values, and let the notes say where they then lie."""
    notes = pickle.loads((folder / ".metadata").read_bytes())
    values = (folder / "__0_0.distcp").read_bytes()
    written = io.BytesIO()
    for place in notes.storage_data.values():
        with zipfile.ZipFile(io.BytesIO(values[place.offset : place.offset + place.length])) as archive:
            parts = {part.filename: archive.read(part) for part in archive.infolist()}
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for each, content in parts.items():
                archive.writestr(each, content)
        place.offset, place.length = written.tell(), len(packed.getvalue())
        written.write(packed.getvalue())
    (folder / "__0_0.distcp").write_bytes(written.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(notes))
