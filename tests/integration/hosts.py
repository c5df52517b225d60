"""Several machines made of this one: each has its own address, processes, file system and sshd."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMANDS = ("chroot", "ip", "rsync", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare")
INIT = Path(__file__).with_name("host_init.sh")


def obstacle() -> str | None:
    """Why no hosts can be made here, or None."""
    if os.geteuid() != 0:
        return "making machines out of namespaces takes root"
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    trial = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], capture_output=True, check=False)
    if trial.returncode != 0:
        return "namespaces are not permitted here"
    return None


@dataclass(frozen=True, slots=True)
class Host:
    """One of the machines.

    Attributes:
        address: its IPv4 address.
        key: file of the private key that root accepts there.
    """

    address: str
    key: Path

    def run(self, command: str, timeout: float = 120) -> str:
        """What a shell command prints; it must succeed within ``timeout`` seconds."""
        return self.start(command).finish(timeout)

    def start(self, command: str) -> Command:
        """Start a shell command, on a terminal of its own."""
        return Command([*self._ssh(), "-tt", f"root@{self.address}", command])

    def put(self, source: Path | str, target: str, *, exclude: tuple[str, ...] = ()) -> None:
        """Copy a file, or with a trailing slash what is in a folder."""
        excluded = [f"--exclude={pattern}" for pattern in exclude]
        _run("rsync", "-a", *excluded, "-e", " ".join(self._ssh()), source, f"root@{self.address}:{target}")

    def _ssh(self) -> list[str]:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=5")
        return ["ssh", "-i", str(self.key), *(f"-o{option}" for option in options)]


class Command:
    """A command under way."""

    def __init__(self, words: list[str]) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (it is gone when this object is)
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=self._output, stderr=subprocess.STDOUT, text=True
        )

    def printed(self) -> str:
        """What it has printed so far, errors too."""
        file = self._output.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode()

    def type(self, text: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def finish(self, timeout: float) -> str:
        """What it prints until it ends, which it must do well and within ``timeout`` seconds."""
        try:
            status: object = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = f"nothing for {timeout:g} s"
        assert status == 0, f"{self._process.args} ended with {status}:\n{self.printed()}"
        return self.printed()


@contextmanager
def hosts(count: int, folder: Path, *, shared: Path, cache: Path) -> Iterator[list[Host]]:
    """Machines on a network of their own that leads nowhere else; nothing is left of them afterwards.

    The Python in use is at its usual place on each. What a machine writes stays in its memory, save below the two
    folders given here.

    Args:
        count: how many, at most 99.
        folder: an empty folder for keys and mount points.
        shared: what each sees as ``/mnt/shared``.
        cache: what each sees as root's ``~/.cache/advlab``.
    """
    network, bridge = f"10.77.{os.getpid() % 256}", f"adv{os.getpid()}"  # two runs at a time keep apart
    key = folder / "key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    with ExitStack() as cleanup:
        _run("ip", "link", "add", bridge, "type", "bridge")
        cleanup.callback(_run, "ip", "link", "delete", bridge)
        _run("ip", "address", "add", f"{network}.1/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        machines = [Host(f"{network}.{number + 2}", key) for number in range(count)]
        for number, machine in enumerate(machines):
            name, memory = f"{bridge}-{number}", folder / str(number)
            memory.mkdir()
            cleanup.enter_context(_network(name, machine.address, bridge, f"{network}.1"))
            cleanup.enter_context(_processes(
                "ip", "netns", "exec", name,
                "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child",
                "sh", INIT, memory, shared, cache, f"{key}.pub", sys.prefix, sys.base_prefix,
            ))  # fmt: skip
        for machine in machines:
            _wait_for_sshd(machine)
        yield machines


@contextmanager
def _network(name: str, address: str, bridge: str, gateway: str) -> Iterator[None]:
    """A network namespace with one card, plugged into a bridge."""
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", name, "master", bridge, "up")
        _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        for card in ("lo", "eth0"):
            _run("ip", "-n", name, "link", "set", card, "up")
        _run("ip", "-n", name, "route", "add", "default", "via", gateway)  # or Ray does not find its own address
        yield
        _run("ip", "link", "delete", name)  # the kernel would do so too, but some time after the namespace is gone
    finally:
        _run("ip", "netns", "delete", name)


@contextmanager
def _processes(*command: object) -> Iterator[None]:
    """A command that is killed at the end, or with this process, and its children with it."""
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *map(str, command)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _wait_for_sshd(host: Host) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection((host.address, 22), timeout=1):
                return
        except OSError:
            assert time.monotonic() < deadline, f"no sshd answers at {host.address}"
            time.sleep(0.1)


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)
