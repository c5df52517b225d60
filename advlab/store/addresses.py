"""Content addresses: a hash of everything that decides the rows of a file."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def address(*decisive: Any) -> str:
    """SHA-256 of everything that decides a shard's rows."""
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
