"""`ray up` with the file for machines of one's own: a study there, through the death of a worker, and `ray down`."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hosts import Host, hosts, obstacle

from advlab import data

REPOSITORY = Path(__file__).parents[2]
SHARDS = 40
STUDY = (
    f"sweeps/transfer_matrix.py --models softmax1e-2 --controls gaussian-0.3 --examples {10 * SHARDS} --shard-size 10"
)
ASK_FOR_KEY = re.findall("read .*?export WANDB_API_KEY", (REPOSITORY / "cluster" / "README.md").read_text())[0]

# The machines cannot reach the internet: pip has to do with what is installed, for building too.
PIP_CONFIG = "[global]\\nno-index = true\\n[install]\\nno-build-isolation = false\\n"

ALIVE = (
    "import json, ray; ray.init('auto', log_to_driver=False); "
    "print(json.dumps({node['NodeManagerAddress']: node['NodeID'] for node in ray.nodes() if node['Alive']}))"
)

# Every file that a machine wrote since it was made.
WRITTEN = "find ~ /etc /mnt /run /tmp /var -newer /run/host_key -type f"

OBSTACLE = obstacle()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(OBSTACLE is not None, reason=str(OBSTACLE))]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """What the machines see as /mnt/shared."""
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


@pytest.fixture
def machines(tmp_path: Path, shared: Path) -> Iterator[list[Host]]:
    """A laptop with this repository, and the head and two workers that cluster/on_prem.yaml speaks of."""
    folder = tmp_path / "hosts"
    folder.mkdir()
    with hosts(4, folder, shared=shared, cache=data.cache_dir()) as machines:
        laptop, head, *workers = machines
        for machine in machines:
            machine.run(f"ln -s {sys.prefix} ~/advlab-venv && mkdir -p ~/.config/pip")
            machine.run(f"printf '{PIP_CONFIG}' > ~/.config/pip/pip.conf")
        laptop.put(f"{REPOSITORY}/", "advlab", exclude=(".venv", "runs", "__pycache__"))
        laptop.put(laptop.key, ".ssh/cluster")
        (tmp_path / "on_prem.yaml").write_text(filled_in(head, workers))
        laptop.put(tmp_path / "on_prem.yaml", "advlab/cluster/on_prem.yaml")
        yield machines


def filled_in(head: Host, workers: list[Host]) -> str:
    """cluster/on_prem.yaml for these machines, each of which is given a small part of the one they are made of."""
    text = (REPOSITORY / "cluster" / "on_prem.yaml").read_text()
    for place, value in {
        "FILL-IN-HEAD": head.address,
        "FILL-IN-WORKER-1": workers[0].address,
        "FILL-IN-WORKER-2": workers[1].address,
        "FILL-IN-USER": "root",
        "FILL-IN-KEY": "cluster",
        "ray start": "ray start --num-cpus=1 --object-store-memory=150000000",
    }.items():
        assert place in text
        text = text.replace(place, value)
    return text


def in_repository(command: str) -> str:
    """A command as typed on the laptop."""
    return f"cd advlab && . ~/advlab-venv/bin/activate && {command}"


def alive(head: Host) -> dict[str, str]:
    """Ray's nodes: address and identity."""
    nodes: dict[str, str] = json.loads(head.run(f'~/advlab-venv/bin/python -c "{ALIVE}"').splitlines()[-1])
    return nodes


def wait_until(condition: Callable[[], bool], timeout: float, pause: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:g} s"
        time.sleep(pause)


@pytest.mark.timeout(1200)
def test_a_study_on_machines_of_ones_own(machines: list[Host], shared: Path, tmp_path: Path) -> None:
    laptop, head, _, worker = machines
    undisturbed, study = tmp_path / "undisturbed", shared / "study"
    subprocess.run([sys.executable, *STUDY.split(), "--out", str(undisturbed)], cwd=REPOSITORY, check=True)

    laptop.run(in_repository("ray get-auth-token --generate"))
    laptop.run(in_repository("ray up -y cluster/on_prem.yaml"), timeout=300)
    wait_until(lambda: len(alive(head)) == 3, timeout=180, pause=3)
    before = alive(head)

    key = secrets.token_hex(20)
    running = laptop.start(
        in_repository(
            f"ray exec cluster/on_prem.yaml '{ASK_FOR_KEY}; cd advlab && "
            f"python {STUDY} --address auto --wandb offline --out /mnt/shared/study'"
        )
    )
    wait_until(lambda: "W&B key: " in running.printed(), timeout=60, pause=0.1)
    running.type(key)

    def attacked() -> int:
        return len(list(study.glob("examples/*/part-*.parquet")))

    wait_until(lambda: attacked() >= SHARDS // 5, timeout=180, pause=0.1)
    worker.run("until pgrep -f '^ray::_Worker.run'; do sleep 0.02; done; pkill -KILL -x raylet", timeout=30)
    assert attacked() < SHARDS
    head.run(f"grep -qsF WANDB_API_KEY={key} /proc/[0-9]*/environ")
    printed = running.finish(timeout=300)

    names = sorted(path.relative_to(undisturbed) for path in undisturbed.rglob("*.parquet"))
    assert len(names) == 3 * SHARDS + 1
    for name in names:
        assert pq.read_table(study / name).equals(pq.read_table(undisturbed / name)), name

    # the head logs in to the worker and starts its raylet again
    worker.run("until pgrep -x raylet; do sleep 1; done", timeout=180)
    wait_until(lambda: len(alive(head)) == 3, timeout=60, pause=3)
    assert alive(head)[worker.address] != before[worker.address]

    assert list(study.glob("wandb/offline-run-*"))
    assert key not in printed
    for machine in machines:
        assert not machine.run(f"{WRITTEN} -exec grep -qF {key} {{}} \\; -print")

    laptop.run(in_repository("ray down -y cluster/on_prem.yaml"))
    for machine in machines:
        machine.run("while pgrep -x raylet; do sleep 1; done", timeout=120)  # workers miss the head for a minute
