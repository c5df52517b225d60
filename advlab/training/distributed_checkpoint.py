"""Read distributed checkpoints (PyTorch's DCP) as data: nothing that is named in one is imported or called.

DCP keeps where each tensor lies in ``.metadata``, a pickle, and unpickles every value that is not a tensor. Whoever
wrote a checkpoint could thereby run code where training goes on. Here the pickle is taken apart into names, arguments
and states, DCP's notes are made again from those that they may consist of, and values are read as `torch.load` reads
weights.
"""

from __future__ import annotations

import io
import os
import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import metadata, state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import ReadItem

from advlab.errors import UserError, one_line

_LARGEST = 1 << 28
"""Bytes of ``.metadata``: a few hundred for each piece of a tensor."""


def read(state: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Fill a state dict in place from a checkpoint, whichever number of processes wrote it.

    Args:
        state: what to fill; its tensors and other values say what is read.
        path: folder of the checkpoint.

    Raises:
        UserError: there is no checkpoint, or it is damaged, another network's, or not DCP's.
    """
    alone = not dist.is_initialized()
    try:
        state_dict_loader.load(state, storage_reader=_Reader(path), planner=_Planner(), no_dist=alone)
    except (CheckpointException, OSError, ValueError) as error:
        failures = error.failures.values() if isinstance(error, CheckpointException) else []
        cause = next((cause for cause, _ in failures), error)
        raise UserError(
            f"checkpoint {str(path)!r} cannot be read ({one_line(cause)[:300].rstrip('.')}); remove it, and training "
            "goes on from the one before it."
        ) from error


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)  # raises for what is not plain
        plain.seek(0)
        super().load_bytes(read_item, plain)


class _Reader(FileSystemReader):
    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        notes = Path(path) / ".metadata"
        if notes.stat().st_size > _LARGEST:
            raise ValueError(f"{notes} is larger than any of ours")
        self.notes = _metadata(notes.read_bytes())

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return replace(self.notes, storage_meta=metadata.StorageMeta(load_id=self.load_id))


class _Named:
    """What a pickle says of one object: the name of its type, the arguments it is called with, and its state."""

    name = ""
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> _Named:
        made = object.__new__(cls)
        made.arguments = arguments
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Names(pickle._Unpickler):  # in Python: the one in C reserves whatever memory a file asks for
    def find_class(self, _module: str, name: str) -> Any:
        return _type_named(name)


@cache
def _type_named(name: str) -> type[_Named]:
    return type("_Named", (_Named,), {"name": name})


def _metadata(content: bytes) -> Metadata:
    """DCP's notes, of which each part is checked; a ValueError where they are not DCP's."""
    try:
        notes = _state(_Names(io.BytesIO(content)).load(), "Metadata")
        described = {_text(name): _described(entry) for name, entry in notes["state_dict_metadata"].items()}
        places = {_index(index): _place(entry) for index, entry in notes["storage_data"].items()}
    except Exception as error:  # a torn pickle can raise anything
        raise ValueError(f"its .metadata is not that of a checkpoint: {one_line(error)[:200]}") from error
    return Metadata(described, storage_data=places)


def _described(entry: Any) -> metadata.TensorStorageMetadata | metadata.BytesStorageMetadata:
    if entry.name == "BytesStorageMetadata":
        return metadata.BytesStorageMetadata()
    state = _state(entry, "TensorStorageMetadata")
    dtype = getattr(torch, _state(state["properties"], "TensorProperties")[0].name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{dtype!r} is not a type of numbers")
    parts = [_state(chunk, "ChunkStorageMetadata") for chunk in state["chunks"]]
    chunks = [metadata.ChunkStorageMetadata(_size(part["offsets"]), _size(part["sizes"])) for part in parts]
    return metadata.TensorStorageMetadata(metadata.TensorProperties(dtype), _size(state["size"]), chunks)


def _index(entry: Any) -> MetadataIndex:
    state = _state(entry, "MetadataIndex")
    offset, index = state.get("offset"), state.get("index")
    return MetadataIndex(_text(state["fqn"]), None if offset is None else _size(offset), index and _whole(index))


def _place(entry: Any) -> _StorageInfo:
    """Where a value lies: in a file of the checkpoint's own folder, as it is."""
    state = _state(entry, "_StorageInfo")
    file = _text(state["relative_path"])
    if file in ("", ".", "..") or {"/", "\\", "\0"} & set(file) or state.get("transform_descriptors"):
        raise ValueError(f"{file!r} is not a file of the checkpoint")
    return _StorageInfo(file, _whole(state["offset"]), _whole(state["length"]))


def _state(entry: Any, name: str) -> Any:
    if not isinstance(entry, _Named) or entry.name != name:
        raise ValueError(f"{name} is missing")
    return entry.state


def _size(entry: Any) -> torch.Size:
    if not isinstance(entry, _Named) or entry.name != "Size":
        raise ValueError("a size is missing")
    return torch.Size([_whole(value) for value in entry.arguments[0]] if entry.arguments else [])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is not a name")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ValueError(f"{str(value)[:40]} is not a size")
    return value
