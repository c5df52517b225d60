"""The cluster files against Ray's own schema."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

REPOSITORY = Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "cluster").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_ray_accepts(path: Path) -> None:
    config = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(config)
    assert any("constraints.txt" in command for command in config["setup_commands"]), "Ray would install a nightly"
    for start in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert "ray start" not in start or "RAY_AUTH_MODE=token" in start


def test_the_file_at_the_top_is_a_link() -> None:
    link = REPOSITORY / "ray_cluster.yaml"
    assert link.is_symlink()
    assert link.resolve() == REPOSITORY / "cluster" / "ray_cluster.yaml"
