"""A study over two real Ray nodes gives the rows of a local one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

SWEEP = Path(__file__).parents[2] / "sweeps" / "transfer_matrix.py"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Two raylets on this machine, one CPU each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_two_nodes_give_the_rows_of_one(cluster: Cluster, tmp_path: Path) -> None:
    # a relative --out, from a folder in which no raylet was started
    def study(out: str, *more: str) -> None:
        command = [
            sys.executable, str(SWEEP), "--models", "softmax1e-2", "--examples", "60", "--shard-size", "20",
            "--controls", "gaussian-0.3,shuffled", "--out", out, *more,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    study("local")
    study("cluster", "--address", cluster.address)
    assert json.loads((tmp_path / "cluster/study.json").read_text())["hosts"] == 2
    names = sorted(str(p.relative_to(tmp_path / "local")) for p in (tmp_path / "local").rglob("*.parquet"))
    assert len(names) == 3 + 3 * 3 + 1
    for name in names:
        assert pq.read_table(tmp_path / "local" / name).equals(pq.read_table(tmp_path / "cluster" / name)), name
