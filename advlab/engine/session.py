"""The connection to Ray: a local instance, or an existing cluster."""

import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # not in its stubs
from ray.exceptions import RayError

from advlab.errors import UserError, one_line

_LONGEST_FOLDER = 20
"""Characters in the path for temporary files: sockets below it add 83, and a path may have 103 in all."""


@contextmanager
def session(address: str | None) -> Iterator[None]:
    """Connect to Ray while the block runs; a UserError if no cluster answers, or none can be started here.

    ``address`` is None for a local Ray, ``auto`` for the cluster of this machine, or the address of a cluster.
    """
    if ray.is_initialized():  # the caller holds the connection
        yield
        return
    with ExitStack() as stack:
        if address is None:
            folder = stack.enter_context(_own_folder())
            stack.enter_context(_own_rules(folder))
            _start(folder)
        else:
            _connect(address)
        stack.callback(ray.shutdown)
        yield


def _start(folder: str) -> None:
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=os.path.join(folder, "r"),  # Ray opens this folder to all users; the one around it does not
        )
    except Exception as error:  # on a busy machine Ray raises a plain Exception
        ray.shutdown()
        raise UserError(
            f"Ray did not start on this machine ({one_line(error)[:300].rstrip('.')}); make sure that memory, disk "
            "and processes are free, and run the same command again."
        ) from error


def _own_folder() -> AbstractContextManager[str]:
    """A folder for Ray's sockets, logs and spilled objects that no other user may enter; Ray's own is open to all."""
    base = tempfile.gettempdir()
    place = base if len(base) <= _LONGEST_FOLDER else "/tmp"
    try:
        return tempfile.TemporaryDirectory(prefix="advlab-", dir=place, ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(f"Ray needs a folder for temporary files ({one_line(error)}); set TMPDIR to one.") from error


@contextmanager
def _own_rules(folder: str) -> Iterator[None]:
    """Restrict Ray to this user and machine: the loopback interface, and a token that only this user can read.

    Without this it listens on all interfaces, and versions before 2.59 run whatever a client sends. The token is made
    for the session: one in the home folder would open all clusters of the user, and that folder may be read-only.
    """
    token = Path(folder) / "token"
    with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32))
    loopback = "lo" if sys.platform == "linux" else "lo0"
    wanted = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": None,  # it would take precedence over the file
        "RAY_AUTH_TOKEN_PATH": str(token),
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",
        "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", loopback),
    }
    before = {name: os.environ.get(name) for name in wanted}
    can_join = ray_constants.ENABLE_RAY_CLUSTER
    _set(wanted)
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray read it on import; now a node's address is 127.0.0.1
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = can_join
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    """Set environment variables, or remove them, and have Ray read them again."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


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
    """Number of live machines in the cluster."""
    return sum(bool(node["Alive"]) for node in ray.nodes())
