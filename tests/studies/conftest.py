"""A small transfer study, made in this process: untrained models, a real attack, real shards."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advlab.attacks import registry
from advlab.data import Dataset
from advlab.models import Checkpoint, zoo
from advlab.store.layout import weights_file
from advlab.studies.transfer import matrix
from advlab.studies.transfer.layout import MATRIX, examples_part, predictions_part
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.rows import examples_to_arrow, predictions_to_arrow
from advlab.transfer import controls
from advlab.transfer.evaluate import answer
from advlab.transfer.generate import attack_dataset

StudyMaker = Callable[..., TransferStudy]
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def make_study(mnist_test: Dataset) -> StudyMaker:
    """Writes a study as the command does; ``wanted`` says of each shard's name whether it is there."""

    def make(
        out: Path,
        *,
        models: Sequence[str] = ("softmax1", "relu8-10"),
        examples: int = 8,
        wanted: Callable[[str], bool] = lambda _name: True,
        weights_seed: int = 0,
        **settings: Any,
    ) -> TransferStudy:
        config = {
            "dataset": "mnist", "split": "test", "train_split": "train", "models": list(models), "examples": examples,
            "attack": "minimum-norm", "target": "nearest", "controls": ["gaussian-0.3", "shuffled"], "shard_size": 5,
            "seed": 0,
        } | settings  # fmt: skip
        attack_settings = registry.settings(config["attack"])
        study = TransferStudy.adopt(
            str(out),
            {"kind": "transfer", "config": config, "attack": attack_settings, "seed": config["seed"], "finished": None},
        )
        checkpoints = {name: untrained(name, mnist_test, weights_seed) for name in models}
        study.manifest["models"] = {name: {"fingerprint": found.fingerprint} for name, found in checkpoints.items()}
        study.manifest["dataset"] = {"name": "mnist", "split": "test", "fingerprint": study.dataset.fingerprint}
        study.save_manifest()
        for name, found in checkpoints.items():
            study.store.write_bytes(weights_file(name), found.to_bytes())
        networks = {name: found.network() for name, found in checkpoints.items()}
        for start in study.starts:
            write_shard(study, networks, start, wanted)
        if all(wanted(predictions_part(s, t, start)) for s in study.sources for t in models for start in study.starts):
            study.store.write_table(MATRIX, matrix.build(study.store, study.prediction_files()))
        return study

    return make


@pytest.fixture
def study(sound: TransferStudy, tmp_path: Path) -> TransferStudy:
    """A copy, to break, of the module's ``sound`` study."""
    shutil.copytree(sound.store.root, tmp_path / "study")
    copy = TransferStudy.open(str(tmp_path / "study"))
    copy._dataset = sound.dataset
    return copy


def untrained(name: str, dataset: Dataset, seed: int) -> Checkpoint:
    recipe = zoo.recipe(name, dataset)
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(name.encode()) + seed)
        network = recipe.build()
        weights = {key: torch.randn_like(value) * 0.1 for key, value in network.state_dict().items()}
    return Checkpoint(recipe, weights, {})


def write_shard(
    study: TransferStudy, networks: dict[str, torch.nn.Module], start: int, wanted: Callable[[str], bool]
) -> None:
    config, store, addresses = study.config, study.store, study.addresses
    shard = study.dataset.subset(slice(start, start + config["shard_size"]))
    attack = registry.resolve(config["attack"])
    attacked = {
        name: attack_dataset(network, shard, attack, config["target"], seed=config["seed"], device=CPU)
        for name, network in networks.items()
    }
    for source in study.sources:
        origin = controls.attacked_model(source) if study.is_control(source) else source
        found, clean = attacked.get(str(origin)), shard
        if found is not None:
            clean = shard.subset(torch.from_numpy(np.searchsorted(shard.index.numpy(), found.index)))
        if study.is_control(source):
            found = controls.make(source, clean, found, seed=config["seed"])
        elif wanted(name := examples_part(source, start)):
            store.write_table(name, examples_to_arrow(found), addresses.examples(source, start))
        own = None if study.is_control(source) else answer(networks[source], found.images, found.label, device=CPU)
        for target, network in networks.items():
            to_clean = answer(network, clean.images.numpy(), found.label, device=CPU)
            to_found = answer(network, found.images, found.label, device=CPU)
            if wanted(name := predictions_part(source, target, start)):
                table = predictions_to_arrow(found, to_clean, to_found, own)
                store.write_table(name, table, addresses.predictions(source, target, start))
