"""A local Ray keeps to itself: the loopback interface, a token, a folder that nobody else may enter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

SCRIPT = """
import json, os, sys
import ray
from pathlib import Path
from advlab.engine.session import session

def descendants(parent):
    found = {parent}
    for _ in range(10):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    status = (entry / "stat").read_text()
                except OSError:
                    continue
                if int(status.rpartition(")")[2].split()[1]) in found:
                    found.add(int(entry.name))
    return found

def listening(processes):
    sockets = set()
    for process in processes:
        try:
            for link in Path(f"/proc/{process}/fd").iterdir():
                target = os.readlink(link)
                if target.startswith("socket:["):
                    sockets.add(target[8:-1])
        except OSError:
            pass
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.add(fields[1].partition(":")[0])
    return sorted(found)

with session(None):
    @ray.remote
    class Actor:
        def refused(self):
            os.environ["RAY_AUTH_TOKEN_PATH"] = "/nowhere"
            return os.environ["RAY_AUTH_MODE"]
    actor = Actor.remote()
    mode = ray.get(actor.refused.remote())
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    node = ray._private.worker._global_node
    print(json.dumps({
        "mode": mode, "listening": listening(descendants(os.getpid())), "token": oct(token.stat().st_mode & 0o777),
        "folder": oct(token.parent.stat().st_mode & 0o777), "session": node.get_session_dir_path(),
        "parent": str(token.parent), "home": sorted(os.listdir(os.environ["HOME"])),
    }))
print(os.path.exists(token), os.environ.get("RAY_AUTH_MODE"), os.environ.get("RAY_AUTH_TOKEN_PATH"))
"""

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same within IPv6, and ::1, as the kernel writes them."""


def test_a_local_ray_keeps_to_itself(tmp_path: Path) -> None:

    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    told, after = done.stdout.strip().splitlines()[-2:]
    found = json.loads(told)
    assert found["mode"] == "token"
    assert found["listening"]
    assert set(found["listening"]) <= LOOPBACK
    assert (found["token"], found["folder"]) == ("0o600", "0o700")
    assert found["session"].startswith(found["parent"])
    assert found["home"] == []  # no token that would open other clusters
    assert after == "False disabled None"  # as it was before


SESSIONS = """
import json, os
import ray
from advlab.engine.actors import PoolOptions
from advlab.engine.pool import ActorPool
from advlab.engine.session import session

def kinds():
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # that of the listing
            continue
        kind = target.partition("[")[0] if "[" in target else os.path.basename(target).partition("-")[0]
        found[kind] = found.get(kind, 0) + 1
    return found

seen = []
for _ in range(3):
    with session(None), ActorPool(PoolOptions(actors=1), elastic=False):
        pass
    seen.append(kinds())
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_a_process_that_opens_many_sessions_keeps_no_file_of_them() -> None:
    """Ray's own client keeps a closed connection to some of the servers that it has ended; it has no handle on them."""
    done = subprocess.run([sys.executable, "-c", SESSIONS], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    seen = [dict(kinds) for kinds in json.loads(done.stdout.splitlines()[-1])]
    sockets = [kinds.pop("socket:", 0) for kinds in seen]
    assert seen[0] == seen[1] == seen[2]
    assert all(more - fewer <= 1 for fewer, more in pairwise(sockets)), sockets
