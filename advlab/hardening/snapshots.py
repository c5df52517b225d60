"""Snapshots of a pool of adversarial examples: a Parquet file per level, and a pointer to the newest snapshot.

The pointer leads readers to files that are complete and never change. The writer replaces it, by one rename or one PUT,
only when all files of the next snapshot are written, and keeps earlier snapshots for readers that still use them.
"""

import io
import operator
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from advlab.errors import UserError, one_line
from advlab.hardening.pool import Batch, Pool
from advlab.store import schema
from advlab.store.files import Store
from advlab.training import trainer_state

POINTER = "newest.json"
KEPT = 3
"""Number of snapshots kept, including the newest."""
_PART = re.compile(r"step=\d{9,18}/layer-\d{1,3}\.parquet")
_LEVELS, _MOST = 100, 2**62
_KINDS = {"label": pa.int64(), "birth": pa.int64(), "index": pa.int64(), "l2": pa.float64(), "loss": pa.float32()}
ATTEMPTS = 20
"""How often a reader follows the pointer, if its snapshot is deleted while it reads."""


def save(
    store: Store,
    folder: str,
    pool: Pool,
    step: int,
    predictions: dict[int, Tensor],
    *,
    trainer: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
) -> None:
    """Write a snapshot, then point to it.

    Args:
        folder: that of the pool within the store, which has this one writer; "" for the store itself.
        step: of training; it names the snapshot.
        predictions: by level, the classes [C] that the network now predicts for the examples.
        trainer: the state of the trainer at the same step, tensors and plain values.
        extra: JSON to keep in the pointer.
    """
    files = {}
    for level, batch in pool.layers.items():
        files[str(level)] = name = f"step={step:09d}/layer-{level}.parquet"
        store.write_table(_in(folder, name), _table(level, batch, predictions[level]))
    if trainer is not None:
        content = io.BytesIO()
        torch.save(trainer, content)
        store.write_bytes(_in(folder, _trainer_file(step)), content.getvalue())
    settings = {"capacity": pool.capacity, "replacement": pool.replacement, "max_age": pool.max_age}
    store.write_json(_in(folder, POINTER), {"step": step, "files": files, **settings, "extra": extra or {}})
    _remove_old(store, folder)


def load(uri: str) -> tuple[Pool, dict[str, Any]]:
    """The newest snapshot of a pool, to whose folder another process may be writing: a copy of the pool, and the
    content of ``newest.json``. Raises a UserError if there is no pool, or its files are damaged.
    """
    return read(Store(uri), "")


def read(store: Store, folder: str) -> tuple[Pool, dict[str, Any]]:
    """As ``load``, for the pool in a folder of a store."""
    uri = store.path(folder)
    for attempt in range(ATTEMPTS):
        if not store.exists(_in(folder, POINTER)):
            raise UserError(f"`pool` {uri!r} holds no pool: there is no {POINTER} in it; name the folder of one.")
        pointer = _pointer(store, folder)
        try:
            tables = {level: store.read_table(_in(folder, name)) for level, name in pointer["files"].items()}
            pool = _restored(pointer, tables)
            break
        except FileNotFoundError as error:
            if attempt == ATTEMPTS - 1:
                raise UserError(f"`pool` {uri!r} lacks a file that its {POINTER} names; make it again.") from error
        except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"`pool` {uri!r}: a file of step {pointer['step']} is damaged ({one_line(error)[:200]}); remove "
                f"{POINTER} and make the pool again."
            ) from error
    return pool, pointer


def _pointer(store: Store, folder: str) -> dict[str, Any]:
    """The content of ``newest.json``, with levels as numbers; it is checked, as others may have written it."""
    uri = store.path(folder)
    try:
        found: dict[str, Any] = store.read_json(_in(folder, POINTER))
        step, files, capacity, max_age = (found[key] for key in ("step", "files", "capacity", "max_age"))
        numbers = (step, capacity, 1 if max_age is None else max_age)
        if any(isinstance(number, bool) or not 0 <= number < _MOST for number in map(operator.index, numbers)):
            raise ValueError("a number is invalid")
        names = {_level(level): name for level, name in files.items()}
        if not isinstance(found.get("extra", {}), dict) or len(names) > _LEVELS:
            raise ValueError("too many levels, or invalid extra data")
        if not all(map(_PART.fullmatch, names.values())):
            raise ValueError("files that do not belong to a pool")
        Pool(capacity, found["replacement"], max_age)  # raises on invalid settings
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, UserError) as error:
        raise UserError(
            f"`pool` {uri!r}: its {POINTER} is incomplete, or not written by advlab ({one_line(error)[:200]}); remove "
            "it and make the pool again."
        ) from error
    return {**found, "files": names}


def _level(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 4):
        raise ValueError(f"level {text[:20]!r} is not a number")
    return int(text)


def _restored(pointer: dict[str, Any], tables: dict[int, pa.Table]) -> Pool:
    pool = Pool(pointer["capacity"], pointer["replacement"], pointer["max_age"])
    for level, table in tables.items():
        if len(table) > pool.capacity:
            raise ValueError(f"level {level} has {len(table):,} examples, more than the capacity {pool.capacity:,}")
    pool.restore({name: value for level, table in tables.items() for name, value in _columns(level, table).items()})
    return pool


def read_trainer(store: Store, folder: str, pointer: dict[str, Any]) -> dict[str, Any]:
    """The state of the trainer saved with the snapshot that ``read`` returned; only for a resumed writer."""
    return trainer_state.read(store, _in(folder, _trainer_file(pointer["step"])))


def dataset(pool: Pool, level: int = 0, shape: tuple[int, ...] | None = None) -> TensorDataset:
    """The examples of a level as a map-style PyTorch data set of (values, label), by ``shape`` such as (1, 28, 28), or
    flat. Raises a UserError if the pool has nothing at that level.
    """
    if level not in pool.layers:
        raise UserError(f"the pool has no examples at level {level}; it has levels {sorted(pool.layers)}.")
    held = pool.layers[level]
    values = held.values if shape is None else held.values.view(-1, *shape)
    return TensorDataset(values, held.labels)


class Live:
    """Batches from the newest snapshot of a pool that another process keeps refreshing.

    Examples of ``level`` (0 for images) have ``shape``, or are flat without one; a newer snapshot is looked for every
    ``reload_every`` batches, or never if that is 0. Raises a UserError if there is no such pool or level.
    """

    def __init__(
        self,
        uri: str,
        *,
        level: int = 0,
        batch_size: int = 128,
        shape: tuple[int, ...] | None = None,
        reload_every: int = 100,
        seed: int = 0,
    ) -> None:
        self.store, self.level, self.batch_size, self.shape = Store(uri), level, batch_size, shape
        self.reload_every = reload_every
        self._generator = torch.Generator().manual_seed(seed)
        self._read()

    def _read(self) -> None:
        pool, pointer = load(self.store.uri)
        self.step: int = pointer["step"]
        self._values, self._labels = dataset(pool, self.level, self.shape).tensors

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless batches (values [b, ...], labels [b])."""
        drawn = 0
        while True:
            look = self.reload_every and drawn and drawn % self.reload_every == 0
            if look and _pointer(self.store, "")["step"] != self.step:
                self._read()
            rows = torch.randint(len(self._labels), (self.batch_size,), generator=self._generator)
            yield self._values[rows], self._labels[rows]
            drawn += 1


def mixed(clean: Dataset[Any], pool: Pool, shape: tuple[int, ...]) -> ConcatDataset[Any]:
    """A data set of clean images and the pool's, for a ``DataLoader`` that shuffles."""
    return ConcatDataset([clean, dataset(pool, 0, shape)])


def _in(folder: str, name: str) -> str:
    """A name in the pool's folder, relative to the store."""
    return f"{folder}/{name}" if folder else name


def _trainer_file(step: int) -> str:
    return f"step={step:09d}/trainer.pt"


def _table(level: int, batch: Batch, reading: Tensor) -> pa.Table:
    """The columns of ``examples/`` (null if the pool does not measure them), ``layer``, ``birth`` and ``loss``."""
    n, width = batch.values.shape
    target = schema.examples((width,))
    l2 = batch.l2.double().numpy()
    columns = {
        "index": pa.array(batch.index.numpy()),
        "label": pa.array(batch.labels.numpy()),
        "target": pa.array(reading.numpy()),
        "success": pa.array((reading != batch.labels).numpy()),
        "l2": pa.array(l2),
        "rms": pa.array(l2 / np.sqrt(width)),
        "image": schema.image_column(batch.values.numpy()),
    }
    arrays = [columns.get(field.name, pa.nulls(n, field.type)) for field in target]
    table = pa.table(arrays, schema=target)
    for name, values in (("layer", np.full(n, level)), ("birth", batch.births.numpy()), ("loss", batch.loss.numpy())):
        table = table.append_column(name, pa.array(values))
    return table


def _columns(level: int, table: pa.Table) -> dict[str, Tensor]:
    """The tensors of a level; raises unless they have the types and shapes of a pool."""
    columns = {}
    for name, kind in _KINDS.items():
        if table[name].null_count or table[name].type != kind:
            raise ValueError(f"its {name} has the wrong type or shape")
        columns[name] = torch.from_numpy(table[name].to_numpy().copy())
    columns["l2"] = columns["l2"].float()
    values = torch.from_numpy(schema.decode_images(table).copy())
    if values.ndim != 2 or bool((columns["label"] < 0).any()) or not bool(values.isfinite().all()):
        raise ValueError("its examples have the wrong type or shape")
    names = {"labels": "label", "births": "birth", "index": "index", "l2": "l2", "loss": "loss"}
    return {f"{level}.values": values} | {f"{level}.{key}": columns[name] for key, name in names.items()}


def _remove_old(store: Store, folder: str) -> None:
    start = len(_in(folder, ""))
    files = [name for name in store.files(folder) if name[start:].startswith("step=")]
    steps = sorted({name[start:].partition("/")[0] for name in files})
    for name in files:
        if name[start:].partition("/")[0] not in steps[-KEPT:]:
            store.delete(name)
