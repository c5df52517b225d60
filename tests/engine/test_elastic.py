"""The pool on clusters that change: real raylets that come, go, or lack the project."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from advlab.engine.actors import PoolOptions
from advlab.engine.pool import ActorPool
from advlab.engine.worker import Resources, Unit
from advlab.errors import UserError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests

WITHOUT_PROJECT = str(Path(__file__).parent / "without_project")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head without CPUs, which notices quickly when a machine dies; the tests add machines."""
    monkeypatch.setattr("advlab.engine.pool.POLL_SECONDS", 0.5)
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": health}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@dataclass(frozen=True)
class Where:
    """Takes a moment, and says on which machine."""

    name: str
    kind: str = "where"

    def run(self, _resources: Resources) -> str:
        time.sleep(0.2)
        return ray.get_runtime_context().get_node_id()


def test_the_pool_grows_with_the_cluster_and_survives_its_shrinking(cluster: Cluster) -> None:
    first = cluster.add_node(num_cpus=1)
    done: dict[str, str] = {}
    gone = False

    def follow(unit: Unit, machine: str) -> Iterable[Unit]:
        nonlocal gone
        assert unit.name not in done
        done[unit.name] = machine
        if len(done) == 3:
            cluster.add_node(num_cpus=1)
        if len(set(done.values())) == 2 and not gone:
            cluster.remove_node(first, allow_graceful=False)
            gone = True
        # work for as long as the second machine has not been used
        return [Where(f"more {len(done)}")] if not gone else []

    with ActorPool(PoolOptions(), elastic=True) as pool:
        assert not pool.run([Where(f"unit {number}") for number in range(20)], follow)
    assert gone
    assert {f"unit {number}" for number in range(20)} <= set(done)
    assert len(set(done.values())) == 2


def test_work_waits_for_a_machine_to_join(cluster: Cluster) -> None:
    said: list[str] = []

    def say(status: str) -> None:
        said.append(status)
        if len(said) == 2:
            cluster.add_node(num_cpus=1)

    with ActorPool(PoolOptions(), elastic=True) as pool:
        assert not pool.run([Where("unit")], on_status=say)
    assert said[0] == "waiting for an actor of --num-cpus 1 --num-gpus 0"


@pytest.mark.parametrize("lacking", ["file", "code"])
def test_a_machine_that_cannot_take_part_is_named(
    lacking: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=1)
    if lacking == "code":
        monkeypatch.setattr("advlab.store.provenance.code", lambda: "another")
    pool = ActorPool(PoolOptions(), elastic=True)
    pool.require_file(str(tmp_path), "study.json")
    wanted = {"code": "has another version of advlab", "file": rf"does not see '{tmp_path}/study.json'"}[lacking]
    with pool, pytest.raises(UserError, match=f"{wanted}, and there is no other machine; "):
        pool.run([Where("unit")])
    if lacking == "file":
        (tmp_path / "study.json").touch()
        pool = ActorPool(PoolOptions(), elastic=True)
        pool.require_file(str(tmp_path), "study.json")
        with pool:
            assert not pool.run([Where("unit")])


def test_a_machine_without_the_project_is_named_and_left_out(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    bad = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": WITHOUT_PROJECT})
    good = cluster.add_node(num_cpus=1)
    machines: set[str] = set()

    def note(_unit: Unit, machine: str) -> Iterable[Unit]:
        machines.add(machine)
        # until the other machine has been found out
        return [] if caplog.records else [Where(f"more {time.monotonic()}")]

    with ActorPool(PoolOptions(), elastic=True) as pool:
        assert not pool.run([Where(f"unit {number}") for number in range(8)], note)
    assert machines == {good.node_id}
    assert bad.node_id not in machines
    (warning,) = {record.getMessage() for record in caplog.records}
    assert "cannot run advlab (ModuleNotFoundError: No module named 'advlab') and is not used" in warning
