"""A study under a killer of actors, raylets, drivers and files ends with the rows of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import verify

SWEEP = Path(__file__).parents[2] / "sweeps" / "transfer_matrix.py"
SHARDS = 40
STUDY = [
    "--models", "softmax1e-2,softmax1", "--controls", "gaussian-0.3,shuffled-softmax1",
    "--attack", "minimum-norm", "--target", "nearest", "--examples", str(10 * SHARDS), "--shard-size", "10",
]  # fmt: skip
FILES = SHARDS * (2 + 4 * 2) + 1
RUNS = 10
FAULTS_PER_RUN = 5

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs and two machines of one CPU, whose death is noticed within two seconds."""
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": health}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    subprocess.run([sys.executable, str(SWEEP), *STUDY, "--out", str(out)], check=True, timeout=300)
    assert len(list(out.rglob("*.parquet"))) == FILES
    return out


class Killer:
    """Strikes a running study; each fault returns whether it found something to strike."""

    def __init__(self, cluster: Cluster, out: Path, dice: random.Random) -> None:
        self.cluster, self.out, self.dice = cluster, out, dice
        self.struck: Counter[str] = Counter()
        self.faults: dict[str, Callable[[subprocess.Popen[bytes]], bool]] = {
            "actor": self.kill_actor,
            "raylet": self.kill_raylet,
            "driver": self.kill_driver,
            "file": self.truncate_file,
        }

    def strike(self, driver: subprocess.Popen[bytes]) -> bool:
        """One fault at random: each kind once before any strikes again."""
        rarest = min(self.struck[name] for name in self.faults)
        name = self.dice.choice([name for name in self.faults if self.struck[name] == rarest])
        hit = self.faults[name](driver)
        self.struck[name] += hit
        return hit

    def kill_actor(self, _driver: subprocess.Popen[bytes]) -> bool:
        raylets = [str(node.all_processes["raylet"][0].process.pid) for node in self.cluster.worker_nodes]
        command = ["pgrep", "-P", ",".join(raylets), "-f", "^ray::_Worker"]
        actors = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        if actors:
            os.kill(int(self.dice.choice(actors)), signal.SIGKILL)
        return bool(actors)

    def kill_raylet(self, _driver: subprocess.Popen[bytes]) -> bool:
        """A machine is lost, and another joins."""
        victim = self.dice.choice(sorted(self.cluster.worker_nodes, key=lambda node: str(node.node_id)))
        self.cluster.remove_node(victim, allow_graceful=False)
        self.cluster.add_node(num_cpus=1)
        return True

    def kill_driver(self, driver: subprocess.Popen[bytes]) -> bool:
        driver.kill()
        return True

    def truncate_file(self, _driver: subprocess.Popen[bytes]) -> bool:
        """The file written last loses its second half."""
        written = sorted(self.out.rglob("*.parquet"), key=lambda path: path.stat().st_mtime)
        if not written:
            return False
        os.truncate(written[-1], written[-1].stat().st_size // 2)
        return True


def start(cluster: Cluster, out: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as printed:
        return subprocess.Popen(
            [sys.executable, str(SWEEP), *STUDY, "--address", cluster.address, "--out", str(out)],
            stdout=printed,
            stderr=printed,
        )


def wait_for_work(driver: subprocess.Popen[bytes], out: Path, dice: random.Random) -> bool:
    """Let the study write some more files; whether it is still running then."""
    goal = min(len(list(out.rglob("*.parquet"))) + dice.randint(3, FILES // 10), FILES)
    deadline = time.monotonic() + 120
    while driver.poll() is None and len(list(out.rglob("*.parquet"))) < goal:
        assert time.monotonic() < deadline, "the study makes no progress"
        time.sleep(0.02)
    return driver.poll() is None


@pytest.mark.timeout(3000)
def test_nothing_is_lost_whatever_dies(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    struck: Counter[str] = Counter()
    commands = 0
    for run in range(RUNS):
        dice, out, log = random.Random(run), tmp_path / f"run-{run}", tmp_path / f"run-{run}.log"
        killer = Killer(cluster, out, dice)
        disturbed = True
        while disturbed:
            driver, before = start(cluster, out, log), killer.struck.total()
            commands += 1
            while killer.struck.total() < FAULTS_PER_RUN and wait_for_work(driver, out, dice):
                killer.strike(driver)
            ended = driver.wait(timeout=300)
            disturbed = killer.struck.total() > before
            # an undisturbed command may still find a file that was cut before it began
            assert ended == 0 or disturbed or killer.struck["file"], log.read_text()
            assert ended in (0, 2, -signal.SIGKILL), log.read_text()
            disturbed |= ended != 0
        struck += killer.struck

        assert not [str(finding) for finding in verify(TransferStudy.open(str(out))) if not finding.is_harmless]
        names = sorted(path.relative_to(undisturbed) for path in undisturbed.rglob("*.parquet"))
        assert sorted(path.relative_to(out) for path in out.rglob("*.parquet")) == names
        for name in names:
            assert pq.read_table(out / name).equals(pq.read_table(undisturbed / name)), (run, name)
    print(f"{struck.total()} faults in {RUNS} runs and {commands} commands: {dict(struck)}")
    assert struck.total() >= 30
    assert all(struck[fault] for fault in ("actor", "raylet", "driver", "file"))
