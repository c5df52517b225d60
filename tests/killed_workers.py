"""A sweep on Ray Train loses a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from advlab.store import Study

REPOSITORY = Path(__file__).parents[1]


def run(sweep: str, arguments: list[str], out: Path, is_under_way: Callable[[], bool]) -> Study:
    """Run a command of ``sweeps/``, kill one of its workers once it is under way, and await its good end."""
    command = [sys.executable, str(REPOSITORY / "sweeps" / sweep), *arguments, "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: process.poll() is not None or is_under_way())
    assert process.poll() is None, process.stderr.read() if process.stderr else ""
    os.kill(below(process.pid, b"RayTrainWorker")[-1], signal.SIGKILL)
    _, complaints = process.communicate(timeout=800)
    assert process.returncode == 0, complaints
    return Study.open(str(out))


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints that Ray Train knows, by step; what a killed round left half-reported may lie beside them."""
    known = json.loads((folder / "checkpoint_manager_snapshot.json").read_text())["checkpoint_results"]
    return {kept["metrics"]["step"]: folder / kept["checkpoint_dir_name"] for kept in known}


def wait_until(happened: Callable[[], bool], seconds: float = 600) -> None:
    """A guard against waiting for ever, no measurement."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)


def below(ancestor: int, kind: bytes) -> list[int]:
    """Processes of workers of a kind that descend from one, by /proc."""
    parent, title = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            title[int(path.name)] = (path / "cmdline").read_bytes()
        except OSError:  # it ended just now
            continue

    def descends(number: int) -> bool:
        while number > 1:
            if number == ancestor:
                return True
            number = parent.get(number, 0)
        return False

    found = [number for number, name in title.items() if kind in name and descends(number)]
    assert found, "no worker is running"
    return sorted(found)
