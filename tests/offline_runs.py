"""Read Weights & Biases' offline run files with wandb's own messages."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2


def records(path: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file, decoded by wandb's own messages.

    The file is a LevelDB log: after a header of 7 bytes, chunks of (crc32, length, type) in blocks of 32 KiB, a
    record being one chunk (type 1) or first, middle and last ones (2, 3, 4).
    """
    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, record = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def points(path: Path) -> list[dict[str, Any]]:
    """What was logged, call by call: by key; a table or an image is a dict of its fields."""
    logged = [record.history.item for record in records(path) if record.WhichOneof("record_type") == "history"]
    return [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items} for items in logged]
