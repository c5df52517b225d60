"""The Kubernetes file: what KubeRay and a study need of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = (REPOSITORY / "cluster" / "Dockerfile").read_text()
CONSTRAINTS = (REPOSITORY / "constraints.txt").read_text()
IN_IMAGE = "/home/ray/advlab/"


@pytest.fixture
def documents() -> dict[str, Any]:
    """The file's documents by kind."""
    text = (REPOSITORY / "cluster" / "kuberay.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture
def job(documents: dict[str, Any]) -> dict[str, Any]:
    """The specification of the job."""
    assert documents["RayJob"]["apiVersion"] == "ray.io/v1"
    spec: dict[str, Any] = documents["RayJob"]["spec"]
    return spec


@pytest.fixture
def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The specifications of the pods by group, the head's first."""
    cluster = job["rayClusterSpec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in {"head": cluster["headGroupSpec"], **groups}.items()}


def test_the_study_is_a_command_of_this_repository(job: dict[str, Any], parse_study: Callable[[str], Any]) -> None:
    options = parse_study(job["entrypoint"].replace(IN_IMAGE, ""))
    assert options.common.address == "auto"
    assert options.common.out.startswith("/mnt/shared/")
    assert options.pool.num_gpus == 1
    assert options.pool.actors == job["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]


def test_the_cluster_goes_when_the_study_is_over_and_comes_again_when_it_is_not(job: dict[str, Any]) -> None:
    assert job["shutdownAfterJobFinishes"] is True
    assert job["ttlSecondsAfterFinished"] > 0
    assert job["backoffLimit"] > 0


def test_workers_come_on_demand(job: dict[str, Any], pods: dict[str, dict[str, Any]]) -> None:
    cluster = job["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
    assert any("spot" in label for label in pods[group["groupName"]]["nodeSelector"])
    assert pods[group["groupName"]]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_machines_are_admitted_by_token(job: dict[str, Any]) -> None:
    assert job["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_pods_run_the_image_of_the_dockerfile(job: dict[str, Any], pods: dict[str, dict[str, Any]]) -> None:
    version = job["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}" in CONSTRAINTS.splitlines()
    assert f"FROM rayproject/ray:{version}-py311-gpu" in DOCKERFILE.splitlines()
    for pod in pods.values():
        (container,) = pod["containers"]
        assert re.fullmatch(r"FILL-IN-REGISTRY/advlab:[\w.-]+", container["image"])
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_dockerfile_copies_what_there_is() -> None:
    for sources, target in re.findall(r"^COPY --chown=\S+ (.+) (\S+)$", DOCKERFILE, re.MULTILINE):
        assert target.startswith(IN_IMAGE)
        for source in sources.split():
            assert (REPOSITORY / source).exists(), source


def test_pods_share_a_claim_and_have_room_in_memory(documents: dict[str, Any], pods: dict[str, dict[str, Any]]) -> None:
    claim = documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods.values():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted["/mnt/shared"]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
        assert mounted["/dev/shm"]["emptyDir"] == {"medium": "Memory"}


def test_the_key_of_w_and_b_comes_from_a_secret_to_the_driver_alone(pods: dict[str, dict[str, Any]]) -> None:
    settings = {
        name: {each["name"]: each for each in pod["containers"][0].get("env", [])} for name, pod in pods.items()
    }
    key = settings.pop("head")["WANDB_API_KEY"]
    assert key == {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": key["valueFrom"]["secretKeyRef"]}}
    assert not any("WANDB_API_KEY" in each for each in settings.values())
