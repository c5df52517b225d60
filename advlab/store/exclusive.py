"""Exclusive creation of a file: of several concurrent writers, exactly one succeeds.

On a disk this is a hard link of a complete file, which fails if the name exists. PyArrow's object stores have no
conditional write, but list every object written before: so each writer first writes a claim of its own, and then the
file only if it sees no other claim. Of two writers, the one that lists later sees the other's claim.
"""

import errno
import os
import random
import time
import uuid
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from advlab.store.retry import persist

if TYPE_CHECKING:
    from advlab.store.files import Store

EXPIRY = 60.0
"""Seconds after which a claim expires, as its writer may have been killed; by the store's own clock."""
_PAUSE = 0.5
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def create(store: "Store", relative: str, content: bytes) -> bool:
    """Write a complete file in the store's own folder unless it exists; returns whether it was written."""
    return _link(store, relative, content) if store.is_local else _claim(store, relative, content)


def _link(store: "Store", relative: str, content: bytes) -> bool:
    draft = f".{relative}.{uuid.uuid4().hex}.tmp"
    store.write_bytes(draft, content)
    try:
        os.link(store.path(draft), store.path(relative))
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _open_new(store.path(relative), content)
    finally:
        store.delete(draft)
    return True


def _open_new(path: str, content: bytes) -> bool:
    """For file systems without hard links: also exclusive, but a reader may briefly see an incomplete file."""
    try:
        with open(path, "xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        return False
    return True


def _claim(store: "Store", relative: str, content: bytes) -> bool:
    own = f".{relative}.{uuid.uuid4().hex}.tmp"
    try:
        while not store.exists(relative):
            store.write_bytes(own, b"")
            rivals = _rivals(store, relative, own)
            if not rivals and not store.exists(relative):
                store.write_bytes(relative, content)
                return store.read_bytes(relative) == content
            if min(rivals, default=own) < own:  # all except one withdraw, and wait for that one
                store.delete(own)
            time.sleep(_PAUSE * random.uniform(0.5, 1.5))
        return False
    finally:
        with suppress(OSError):
            store.delete(own)


def _rivals(store: "Store", relative: str, own: str) -> list[str]:
    """The claims of others that have not expired; expired ones are removed."""
    claims = [name for name in store.temporary_files() if name.startswith(f".{relative}.")]
    found = {name: persist(partial(store.filesystem.get_file_info, store.path(name)), store.uri) for name in claims}
    written = {name: info.mtime for name, info in found.items() if info.mtime}  # the ones that still exist
    now = written.get(own)
    expired = [name for name, at in written.items() if now is not None and now - at > timedelta(seconds=EXPIRY)]
    for name in expired:
        store.delete(name)
    return sorted(written.keys() - {own} - set(expired))
