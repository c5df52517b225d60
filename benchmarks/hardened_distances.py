"""Distances to the boundary of hardened networks, by level: as measured by the study, and by more thorough searches.

    python sweeps/adversarial_training.py --variants all,input,gaussian --seeds 1 --out runs/hardened
    python benchmarks/hardened_distances.py runs/hardened

A study of adversarial training measures `minimum_norm` with 96 evaluations and no references. This is compared
with `minimum_norm` with 1,000 evaluations and references (activations of training images), and at the input with
adv-lib's FAB and PDGD with as many; the envelope is the smallest distance of all, image by image. Medians over images
classified correctly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from attack_methods import FAMILIES
from rich.console import Console
from safetensors.torch import load
from torch import Tensor, nn

from advlab import data
from advlab.attacks import minimum_norm
from advlab.errors import UserError
from advlab.hardening.levels import Levels
from advlab.hardening.settings import Settings
from advlab.hardening.trainer import build
from advlab.store import Study

CLOSE = 1000
"""Evaluations of the closer searches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to measure."""

    study: Annotated[str, tyro.conf.Positional]
    """Folder of a study of adversarial training."""
    images: int = 100
    """Test images."""
    references: int = 500
    """Training images whose activations the closer search may start from."""


def networks(study: Study, dataset: data.Dataset) -> dict[str, nn.Module]:
    """Its networks by variant and seed.

    Raises:
        UserError: it has none.
    """
    training = study.config["training"]
    settings = Settings(**{key: tuple(v) if isinstance(v, list) else v for key, v in training.items()})
    found = {}
    for file in study.store.files("models", suffix=".safetensors"):
        variant, seed = re.findall(r"variant=(.+)/seed-(\d+)", file)[0]
        network = build(settings, dataset)
        network.load_state_dict(load(study.store.read_bytes(file)))
        found[f"{variant}, seed {int(seed)}"] = network.eval().requires_grad_(False)
    if not found:
        raise UserError(f"{study.store.uri!r} has no networks yet; run the study to its end first.")
    return found


def distances(network: nn.Module, test: data.Dataset, known: Tensor) -> list[dict[str, Any]]:
    """One row per level: median distance by method."""
    images, labels = test.images, test.labels
    right = network(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    levels, rows = Levels(network), []
    for level, (values, others) in enumerate(zip(levels.activations(images), levels.activations(known), strict=True)):
        tail, box = levels.tail(level), levels.boxes[level]
        found = {
            "as measured": minimum_norm(tail, values, labels, bounds=box).l2,
            "closer": minimum_norm(
                tail, values, labels, bounds=box, max_evaluations=CLOSE, references=others, batch_size=500
            ).l2,
        }
        if level == 0:
            for name in ("fab", "pdgd"):
                candidates = FAMILIES[name](CLOSE)(network, images, labels).candidates
                l2 = (candidates - images).flatten(1).norm(dim=1)
                found[name] = torch.where(network(candidates).argmax(1) != labels, l2, torch.inf)
        found["envelope"] = torch.stack([l2.double() for l2 in found.values()]).amin(0)
        rows.append({"level": level} | {name: float(np.median(l2.numpy())) for name, l2 in found.items()})
    return rows


def main(config: Config) -> None:
    """Print a Markdown table."""
    torch.set_num_threads(1)
    study = Study.open(config.study)
    test = data.load(study.config["dataset"], "test").subset(slice(config.images))
    train = data.load(study.config["dataset"]).subset(slice(config.references))
    names = ("as measured", "closer", "fab", "pdgd", "envelope")
    console = Console(width=160)
    console.print(f"| variant | level | {' | '.join(names)} | as measured / envelope |", markup=False)
    console.print("|---|---:|---:|---:|---:|---:|---:|---:|", markup=False)
    for variant, network in networks(study, test).items():
        for row in distances(network, test, train.images):
            cells = [f"{row[name]:.3f}" if name in row else "" for name in names]
            ratio = row["as measured"] / row["envelope"]
            console.print(f"| {variant} | {row['level']} | {' | '.join(cells)} | {ratio:.3f} |", markup=False)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
