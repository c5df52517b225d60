"""Content addresses: hashes of everything that determines the rows of a file."""

import hashlib
import json
from typing import Any


def address(*decisive: Any) -> str:
    """SHA-256 of values that together determine the rows of a shard."""
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()
