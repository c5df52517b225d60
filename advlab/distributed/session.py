"""Being connected to Ray: a local one, or the cluster one is on."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from advlab.errors import UserError, one_line


@contextmanager
def session(address: str | None) -> Iterator[None]:
    """Connect to Ray while the block runs.

    Args:
        address: None for a Ray of one's own on this machine, ``auto`` for the cluster this machine belongs to, or
            the address of one.

    Raises:
        UserError: no cluster answers at ``address``.
    """
    if ray.is_initialized():  # the caller holds the connection
        yield
        return
    if address is None:
        ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    else:
        _connect(address)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    try:
        if ":" in address and "://" not in address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError, RayError) as error:  # ConnectionError and TimeoutError are OSErrors
        cause = one_line(error)[:200].rstrip(".")
        raise UserError(
            f"no Ray cluster answers at --address {address!r} ({cause}); run on a machine of the cluster with "
            "--address auto, start one with 'ray start --head', or leave --address out to compute on this machine."
        ) from error


def host_count() -> int:
    """Machines alive in the cluster."""
    return sum(bool(node["Alive"]) for node in ray.nodes())
