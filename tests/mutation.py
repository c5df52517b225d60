"""Inputs made from sound files by breaking them; each is decided by its reader's name and a number alone."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from advlab.store import parquet

Mutator = Callable[[bytes, random.Random], bytes]

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**12, 2**63, 10**40, -0.5, 1e308, float("nan"), float("inf"), "", "x" * 300,
    "../../etc/passwd", "\x1b[2J\x1b[1;1Hsound", "\ud800", "\u202eevil", "a\0b", "file:/tmp/evil.py:make",
    "folder:/proc", "²", [], {}, [[]], {"a": 1}, ["softmax1"] * 3, "s3://KEY:SECRET@bucket/x", "study:../x", "é" * 200,
)  # fmt: skip


def of_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to four changes of bytes: flipped, cut, doubled, zeroed, or a number's extremes in their place."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        start = draw.randrange(len(changed) + 1)
        size = draw.choice((1, 1, 2, 4, 8, draw.randint(1, 64)))
        kind = draw.randrange(6)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[start : start + size] = draw.randbytes(size)
        elif kind == 2:
            width = draw.choice((1, 2, 4, 8))
            number = draw.choice(EXTREMES) % 256**width
            changed[start : start + width] = number.to_bytes(width, draw.choice(("little", "big")))
        elif kind == 3:
            del changed[start : start + draw.choice((size, len(changed)))]
        elif kind == 4:
            changed[start:start] = changed[start : start + size] * draw.choice((1, 2, 100))
        else:
            changed[start : start + size] = bytes(size)
    return bytes(changed)


def of_json(content: bytes, draw: random.Random) -> bytes:
    """Another value or key somewhere in a JSON document; now and then its bytes, or far too much depth."""
    kind = draw.randrange(10)
    if kind == 0:
        return of_bytes(content, draw)
    if kind == 1:
        depth = draw.choice((50, 500, 5_000, 100_000))
        return draw.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth, content[:-2] + b',"a":' + b"[" * depth))
    document = json.loads(content)
    for _ in range(draw.randint(1, 3)):
        holder, key = draw.choice(_places(document))
        value = copy.deepcopy(draw.choice(VALUES))  # it may be changed in its turn
        if isinstance(holder, dict) and draw.random() < 0.3:
            old = holder.pop(key)
            if draw.random() < 0.5:
                holder[str(value)] = old
        else:
            holder[key] = value
        if not _places(document):
            break
    return json.dumps(document).encode()


def of_parquet(content: bytes, draw: random.Random) -> bytes:
    """Changed bytes, mostly of the footer, under a checksum and behind a length that are right for them."""
    footer = parquet.footer_size(content)
    where = draw.randrange(3)
    if where == 0:
        changed = of_bytes(content, draw)
    elif where == 1:
        changed = content[:4] + of_bytes(content[4:-footer], draw) + content[-footer:]
    else:
        end = of_bytes(content[-footer:-8], draw)
        changed = content[:-footer] + end + len(end).to_bytes(4, "little") + b"PAR1"
    return signed(changed) if draw.random() < 0.9 else changed


def signed(content: bytes) -> bytes:
    """The file with the checksum that it should have, where it still has room for one."""
    changed = bytearray(content)
    start = changed.rfind(parquet.CHECKSUM_KEY + b"\x18\x40") + len(parquet.CHECKSUM_KEY) + 2
    place = slice(start, start + 64)
    if start < 66 or len(changed[place]) < 64:
        return content
    changed[place] = b"0" * 64
    changed[place] = hashlib.sha256(changed).hexdigest().encode()
    return bytes(changed)


def inputs(name: str, seeds: Sequence[bytes], mutate: Mutator, numbers: range) -> Any:
    """(number, input) of a reader, the same at all times."""
    for number in numbers:
        draw = random.Random(f"{name} {number}")
        yield number, mutate(draw.choice(seeds), draw)


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Where a value stands: what holds it, and its key or position."""
    found: list[tuple[Any, Any]] = []
    held = [document]
    while held:
        one = held.pop()
        items = one.items() if isinstance(one, dict) else enumerate(one) if isinstance(one, list) else ()
        for key, value in items:
            found.append((one, key))
            held.append(value)
    return found
