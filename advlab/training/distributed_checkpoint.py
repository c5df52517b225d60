"""Read distributed checkpoints (PyTorch's DCP) as data: no name in them is imported or called.

DCP's ``.metadata`` is a pickle, and it unpickles every value that is not a tensor, so a checkpoint's author could run
code. Here the pickle is parsed into names, arguments and states, DCP's metadata are rebuilt from allowed types only,
and values are read with ``weights_only``.
"""

import io
import os
import pickle
from dataclasses import replace
from typing import IO, Any, Self

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import metadata, state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import ReadItem
from torch.distributed.checkpoint.utils import _ReaderView

from advlab.errors import UserError, one_line
from advlab.store import Store
from advlab.training.trainer_state import require_stored

_LARGEST, _TYPES = 1 << 24, 100
"""Largest size of ``.metadata``, which has a few hundred bytes for each piece of a tensor, and most types in it."""


def read(state: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Fill a state dict in place from a checkpoint's folder, written by any number of processes; its keys and tensors
    determine what is read. Raises a UserError if the checkpoint is missing, damaged, or of another network.
    """
    alone = not dist.is_initialized()
    try:
        state_dict_loader.load(state, storage_reader=_Reader(path), planner=_Planner(), no_dist=alone)
    except (CheckpointException, OSError, ValueError) as error:
        failures = error.failures.values() if isinstance(error, CheckpointException) else []
        cause = next((cause for cause, _ in failures), error)
        raise UserError(
            f"checkpoint {str(path)!r} cannot be read ({one_line(cause)[:300].rstrip('.')}); remove it, and training "
            "continues from the one before it."
        ) from error


class _Planner(DefaultLoadPlanner):
    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        plain = io.BytesIO()
        torch.save(torch.load(value, weights_only=True), plain)  # raises if it is not plain data
        plain.seek(0)
        super().load_bytes(read_item, plain)


class _Reader(FileSystemReader):
    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        store = Store(path)
        store.require_own("")
        for name in store.files():
            store.size(name)  # raises for files with holes
        self.notes = _metadata(store.read_bytes(".metadata", _LARGEST))

    def _slice_file(self, file: Any, sinfo: _StorageInfo) -> IO[bytes]:
        require_stored(_Part(file, sinfo.offset, sinfo.length), sinfo.length)
        return super()._slice_file(file, sinfo)

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        return replace(self.notes, storage_meta=metadata.StorageMeta(load_id=self.load_id))


class _Part(_ReaderView):
    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:  # theirs takes an offset from the end as positive
        from_end = whence == os.SEEK_END
        return super().seek(self.len + offset if from_end else offset, os.SEEK_SET if from_end else whence)


class _Named:
    """The description of one object in a pickle: type name, arguments and state."""

    name = ""
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> Self:
        named = object.__new__(cls)
        named.arguments = arguments
        return named

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Names(pickle._Unpickler):  # the Python version: the C version allocates as much memory as a file demands
    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream)
        self.types: dict[str, type[_Named]] = {}

    def find_class(self, _module: str, name: str) -> Any:
        if name not in self.types:
            if len(self.types) == _TYPES:
                raise ValueError("it has more types than DCP's")
            self.types[name] = type("_Named", (_Named,), {"name": name})
        return self.types[name]


def _metadata(content: bytes) -> Metadata:
    """DCP's metadata, every part checked; raises a ValueError if they are not DCP's."""
    try:
        notes = _state(_Names(io.BytesIO(content)).load(), "Metadata")
        described = {_text(name): _described(entry) for name, entry in notes["state_dict_metadata"].items()}
        places = {_index(index): _place(entry) for index, entry in notes["storage_data"].items()}
    except Exception as error:  # an incomplete pickle may raise anything
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
    """The location of a value: a file in the checkpoint's own folder, uncompressed."""
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
