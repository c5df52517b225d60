"""The cluster files against Ray's own schema, this project's pins, and each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.train import ScalingConfig

REPOSITORY = Path(__file__).parents[2]
CLUSTER = REPOSITORY / "cluster"
ON_DOCKER = ("ray_cluster.yaml", "gcp.yaml")
ALL = (*ON_DOCKER, "on_prem.yaml")


def read(name: str) -> dict[str, Any]:
    """A cluster file as Ray completes it."""
    config: dict[str, Any] = prepare_config(yaml.safe_load((CLUSTER / name).read_text()))
    return config


def pinned(package: str) -> str:
    """The version of a package that constraints.txt asks for."""
    found = re.search(rf"^{package}==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_no_file_is_left_out() -> None:
    assert {path.name for path in CLUSTER.glob("*.yaml")} == {*ALL, "kuberay.yaml"}


@pytest.mark.parametrize("name", ALL)
def test_ray_accepts(name: str) -> None:
    validate_config(read(name))


@pytest.mark.parametrize("name", ALL)
def test_machines_get_this_project_with_its_pins(name: str) -> None:
    config = read(name)
    assert config["file_mounts"]["~/advlab"] == "."
    for commands in (config["head_setup_commands"], config["worker_setup_commands"]):
        assert any("pip install --quiet -c ~/advlab/constraints.txt -e ~/advlab" in command for command in commands)
        assert not any("ray-wheels" in command for command in commands), "the nightly build of Ray's defaults"


@pytest.mark.parametrize("name", ALL)
def test_machines_are_admitted_by_token(name: str) -> None:
    # A head that finds a token asks for one; workers show theirs only when told to.
    config = read(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    everywhere = [*config["setup_commands"], *config["docker"].get("run_options", [])]
    assert any("RAY_AUTH_MODE=token" in setting for setting in everywhere)


@pytest.mark.parametrize("name", ALL)
def test_no_secret_has_a_place(name: str) -> None:
    assert "WANDB" not in (CLUSTER / name).read_text()


@pytest.mark.parametrize("name", ON_DOCKER)
def test_cloud_workers_are_spot_machines_with_gpus_that_come_on_demand(name: str) -> None:
    types = read(name)["available_node_types"]
    head, workers = types["head"], types["gpu_spot"]
    assert head["resources"] == {"CPU": 0}
    assert workers["resources"]["GPU"] > 0
    assert workers["min_workers"] == 0 < workers["max_workers"]
    market = workers["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
    scheduling = workers["node_config"].get("scheduling", {}).get("provisioningModel")
    assert "spot" in (market, str(scheduling).lower())


@pytest.mark.parametrize("name", ON_DOCKER)
def test_training_has_machines_of_its_own_that_stay(name: str) -> None:
    config = read(name)
    types = config["available_node_types"]
    training = types["gpu_train"]
    assert training["resources"] == {"CPU": 96, "GPU": 8, "accelerator_type:A100": 1}
    assert "accelerator_type:A100" not in types["gpu_spot"]["resources"]
    assert "spot" not in str(training["node_config"]).lower()
    assert training["min_workers"] == 0 < training["max_workers"]
    assert config["max_workers"] == training["max_workers"] + types["gpu_spot"]["max_workers"]
    asked = ScalingConfig(num_workers=8, use_gpu=True, accelerator_type="A100").total_resources
    assert all(amount <= training["resources"][name] for name, amount in asked.items())


@pytest.mark.parametrize("name", ON_DOCKER)
def test_images_hold_the_pinned_ray(name: str) -> None:
    assert read(name)["docker"]["image"] == f"rayproject/ray:{pinned('ray')}-py311-gpu"


def test_machines_of_ones_own_use_the_autoscaler_that_works() -> None:
    # `ray up` asks for version 2 before the command; what the command itself says comes later, and counts.
    start = next(command for command in read("on_prem.yaml")["head_start_ray_commands"] if "--head" in command)
    assert "RAY_enable_autoscaler_v2=0 ray start" in start


def test_the_file_at_the_top_is_a_link() -> None:
    link = REPOSITORY / "ray_cluster.yaml"
    assert link.is_symlink()
    assert link.resolve() == CLUSTER / "ray_cluster.yaml"
