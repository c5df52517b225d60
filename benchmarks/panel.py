"""Minimal-distortion attacks on a panel of networks of many kinds: every attack on the same images, one process.

    python benchmarks/panel.py --panel judging --train        # trains every network once, into the cache
    python benchmarks/panel.py --panel judging

writes a table per network (terminal and Markdown). Finished (network, draw, method) cells are kept in ``--cache`` and
are not run again; a method that fails leaves a failed cell.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from attack import FIRST_SEED, WITHIN, Cell, cached, local_optimality, measure, plt, show
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

from advlab import data, models
from advlab.errors import UserError
from advlab.models.mlp import MLP

POOL = "pool-hardened"
"""The laboratory's own hardened network: fully connected, trained on a pool by sweeps/adversarial_training.py."""
PHOTOS = "photos"
"""The twenty labelled photos of Foolbox: the first ten for development, the others for judging."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A network to be attacked, and on what.

    Attributes:
        model: a zoo name, ``python:MODULE:FACTORY``, or ``pool-hardened-A-…`` (widths of the hidden layers).
        seed: of the model.
        data: a data set, or ``photos``.
        images: attacked, unless ``--images`` says otherwise.
        budget: evaluations per image of a method whose name ends in ``-N``.
    """

    model: str
    seed: int
    data: str = "mnist"
    images: int = 100
    budget: int = 1000

    @property
    def name(self) -> str:
        """What it is called in tables and files."""
        return f"{self.model.rpartition(':')[2]}@{self.seed}"


DEVELOPMENT = (
    Subject(model="fc100-100-10", seed=0, images=500),
    Subject(model="relu300-150-10", seed=0, images=500),
    Subject(model="relu50-50-50-50-50-50-10", seed=0, images=500),
    Subject(model="conv", seed=0),
    Subject(model="conv3x3-16-32", seed=0),
    Subject(model="conv3x3-16-32-kwta0.2", seed=0),
    Subject(model="conv3x3-16-32-quantised3", seed=0),
    Subject(model="conv3x3-16-32-distilled50", seed=0),
    Subject(model="conv3x3-16-32-linf0.3", seed=0),
    Subject(model="conv3x3-16-32-l2-1.5", seed=0),
    Subject(model="vit-48-4", seed=0),
    Subject(model="resnet-8", seed=0, data="cifar10"),
    Subject(model=f"{POOL}-100-100", seed=0, images=500),
    Subject(model="python:advlab.models.efficientnet:lite0", seed=0, data=PHOTOS, images=10, budget=100),
)
"""For tuning, on images that draw 0 gives."""

JUDGING = (
    Subject(model="fc80-60-10", seed=1, images=500),
    Subject(model="relu200-100-10", seed=1, images=500),
    Subject(model="relu40-40-40-40-40-40-40-40-10", seed=1, images=500),
    Subject(model="conv@p1", seed=1),
    Subject(model="conv3x3-12-24@p1", seed=1),
    Subject(model="conv3x3-12-24-kwta0.25", seed=1),
    Subject(model="conv3x3-12-24-quantised4", seed=1),
    Subject(model="conv3x3-12-24-distilled40", seed=1),
    Subject(model="conv3x3-14-28-linf0.3", seed=1),
    Subject(model="conv3x3-12-24-l2-1.2@p1", seed=1),
    Subject(model="vit-32-4", seed=1),
    Subject(model="resnet-8-12", seed=1, data="cifar10"),
    Subject(model=f"{POOL}-120-80", seed=1, images=500),
    Subject(model="python:advlab.models.efficientnet:lite1", seed=1, data=PHOTOS, images=10, budget=100),
)
"""Of other seeds, widths (``conv`` has one only) and draws, some of half the training set; nothing is tuned on them."""

PEERS = "alma-N,ddn-N,pdgd-N,apgd-t-N,fab-N,foolbox-fmn-N,sdf,bb-N"
OURS = "advlab-96,advlab-220,advlab-N,advlab-ref-N"
REFERENCES = 500
"""Images, the first of the training set, that ``advlab-ref-N`` may start from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to compare."""

    panel: Literal["development", "judging"] = "judging"
    """Which networks."""
    only: str = ""
    """Networks of the panel whose names contain one of these, comma separated; all when empty."""
    methods: str = f"{OURS},{PEERS}"
    """Methods, comma separated; N stands for the network's budget of evaluations."""
    images: int | None = None
    """At most so many images per network; each network's own number when absent."""
    draw: int | None = None
    """Draw of the images; when absent 0 for development and 1000 for judging."""
    batch_size: int = 500
    """Images attacked at once."""
    threads: int = 1
    """Torch threads."""
    train: bool = False
    """Train the networks, say how good they are, and stop."""
    cache: Path = Path("attack_panel")
    """Where finished cells, the pool-hardened networks and the tables go."""


def load(subject: Subject, cache: Path) -> nn.Module:
    """The network, trained now unless it was before.

    Raises:
        UserError: a model that there is not, or whose packages are missing.
    """
    if not subject.model.startswith(POOL):
        return models.load(subject.model, "mnist" if subject.data == PHOTOS else subject.data, seed=subject.seed)
    directory = cache / subject.name
    hidden = subject.model.removeprefix(f"{POOL}-").split("-")
    sweep = Path(__file__).parent.parent / "sweeps" / "adversarial_training.py"
    options = ["--variants", "all", "--seeds", "1", "--seed", str(subject.seed), "--epochs", "8"]
    options += ["--distortions", "20", "--out", str(directory), "--hidden", *hidden]
    weights = directory / "models" / "variant=all" / f"seed-{subject.seed:04d}.safetensors"
    if not weights.exists():
        subprocess.run([sys.executable, str(sweep), *options], check=True)
    network = MLP([784, *map(int, hidden), 10], "relu")
    network.load_state_dict(load_file(weights))
    return network.eval().requires_grad_(False)


def images_of(subject: Subject, draw: int, network: nn.Module, limit: int | None) -> tuple[Tensor, Tensor]:
    """Images [B, C, H, W] and labels [B] of a draw."""
    count = min(subject.images, limit or subject.images)
    if subject.data == PHOTOS:
        images, labels = _photos(getattr(network, "size", 224))
        rows = torch.arange(10)[:count] + (10 if draw >= FIRST_SEED else 0)
        return images[rows], labels[rows]
    test = data.load(subject.data, split="test")
    rows = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(draw))[:count]
    return test.images[rows], test.labels[rows]


def references_of(subject: Subject, draw: int, network: nn.Module) -> Tensor:
    """Images [R, C, H, W] that are not attacked."""
    if subject.data == PHOTOS:
        return images_of(subject, FIRST_SEED - draw, network, None)[0]
    return data.load(subject.data).images[:REFERENCES]


def _photos(size: int) -> tuple[Tensor, Tensor]:
    found = find_spec("foolbox")
    if found is None or found.origin is None:
        raise UserError("the photos are Foolbox's; install it with: pip install 'advlab[bench]'.")
    import torchvision
    from torchvision.transforms import functional as transforms

    paths = sorted((Path(found.origin).parent / "data").glob("imagenet_*.jpg"))
    shown = [transforms.center_crop(transforms.resize(torchvision.io.read_image(str(p)), size), size) for p in paths]
    labels = torch.tensor([int(path.stem.rpartition("_")[2]) for path in paths])
    return torch.stack(shown).float() / 255, labels


def attack(subject: Subject, method: str, draw: int, config: Config, network: nn.Module) -> Cell:
    """A cell from the cache, or measured now; infinite distances and the reason where the method fails."""
    images, labels = images_of(subject, draw, network, config.images)
    path = config.cache / "cells" / f"{subject.name}-{draw}-{len(images)}-{method}.npz"

    def compute() -> Cell:
        try:
            torch.manual_seed(0)
            references = references_of(subject, draw, network) if "-ref-" in method else None
            return measure(method, network, images, labels, config.batch_size, references)
        except UserError:
            raise
        except Exception as error:  # whatever a peer raises is its failure, not the benchmark's
            with torch.no_grad():
                clean = network(images).argmax(1) != labels
            distances = torch.full((len(images),), torch.inf).double().masked_fill(clean, 0)
            return Cell(distances.numpy(), float("nan"), float("nan"), f"{type(error).__name__}: {error}"[:200])

    return cached(path, compute)


def summarise(cells: dict[str, Cell]) -> list[dict[str, Any]]:
    """One row per method on one network.

    A failure counts with the farthest distance at which any method of the table succeeded; ξ is AttackBench's local
    optimality, whose ε₀ is the largest distance of the image-wise best of all methods of the table.
    """
    every = np.stack([cell.distances for cell in cells.values()])
    cap = float(np.max(every[np.isfinite(every)], initial=0))
    envelope = every.min(0)
    attacked = envelope > 0
    peers = {name: cell for name, cell in cells.items() if not name.startswith("advlab")}
    best_peer = min((_mean(cell.distances, cap) for cell in peers.values()), default=float("nan"))
    reach = float(np.max(envelope[np.isfinite(envelope)], initial=0))
    rows = []
    for name, cell in cells.items():
        others = [peer.distances for other, peer in peers.items() if other != name]
        rival = np.min(others, axis=0) if others else np.full_like(envelope, np.inf)
        hit = np.isfinite(cell.distances)
        rows.append(
            {
                "method": name,
                "success": float(hit.mean()),
                "mean_l2": _mean(cell.distances, cap),
                "median_l2": float(np.median(np.where(hit, cell.distances, cap))),
                "to_best_peer": _mean(cell.distances, cap) / best_peer,
                "unbeaten": float((hit & (cell.distances <= rival * WITHIN))[attacked].mean()),
                "optimality": local_optimality(cell.distances, envelope, reach),
                "evaluations": cell.evaluations,
                "ms_per_image": 1000 * cell.seconds,
                "error": cell.error,
            }
        )
    return rows


def _mean(distances: np.ndarray, cap: float) -> float:
    return float(np.where(np.isfinite(distances), distances, cap).mean())


COLUMNS = {
    "method": ("Method", "{}"),
    "success": ("Success", "{:.1%}"),
    "mean_l2": ("Mean L2", "{:.4f}"),
    "median_l2": ("Median L2", "{:.4f}"),
    "to_best_peer": ("Mean / best peer's", "{:.4f}"),
    "unbeaten": ("No (other) peer closer by 0.1%", "{:.1%}"),
    "optimality": ("ξ", "{:.4f}"),
    "evaluations": ("Evaluations", "{:.0f}"),
    "ms_per_image": ("ms / image", "{:.2f}"),
    "error": ("Gave up", "{}"),
}


def chosen(config: Config) -> list[Subject]:
    """The networks that the command line asks for.

    Raises:
        UserError: there are none.
    """
    panel = JUDGING if config.panel == "judging" else DEVELOPMENT
    parts = [part for part in config.only.split(",") if part]
    found = [subject for subject in panel if not parts or any(part in subject.name for part in parts)]
    if not found:
        raise UserError(f"--only {config.only!r} fits none of {', '.join(subject.name for subject in panel)}.")
    return found


def run(config: Config) -> None:
    """Measure; after each network write PANEL.md, .json and .png of all those measured so far into the cache folder."""
    torch.set_num_threads(config.threads)
    draw = config.draw if config.draw is not None else FIRST_SEED if config.panel == "judging" else 0
    results = config.cache / f"{config.panel}.json"
    summary: dict[str, list[dict[str, Any]]] = json.loads(results.read_text()) if results.exists() else {}
    console = Console(width=180)
    for subject in chosen(config):
        network = load(subject, config.cache)
        if config.train:
            console.print(f"{subject.name}: {_accuracy(subject, network):.2%} of the test images classified correctly")
            continue
        methods = [_spelled(name, subject) for name in config.methods.split(",")]
        cells = {name: attack(subject, name, draw, config, network) for name in dict.fromkeys(methods)}
        count = len(next(iter(cells.values())).distances)
        title = f"{subject.name}: {count} images of {subject.data}"
        summary = {kept: rows for kept, rows in summary.items() if not kept.startswith(f"{subject.name}:")}
        summary[title] = summarise(cells)
        console.print(show(title, summary[title], COLUMNS)[0])
        texts = [show(name, rows, COLUMNS)[1] for name, rows in sorted(summary.items())]
        results.with_suffix(".md").write_text("\n".join(texts))
        results.write_text(json.dumps(summary, indent=1))
        plot(summary, results.with_suffix(".png"))


def plot(summary: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Mean distance over that of the best single peer, by network and by our budget, with references."""
    figure, axis = plt.subplots(figsize=(8, 0.45 * len(summary) + 1.2), layout="constrained")
    budgets = sorted({_budget(row) for rows in summary.values() for row in rows if _budget(row)})
    shades = plt.get_cmap("viridis_r")(np.linspace(0.15, 1, max(1, len(budgets))))
    for place, rows in enumerate(summary.values()):
        for row in rows:
            if budget := _budget(row):
                axis.scatter(row["to_best_peer"], place, color=shades[budgets.index(budget)], s=42, zorder=3)
    for budget, shade in zip(budgets, shades, strict=True):
        axis.scatter([], [], color=shade, label=f"{budget} evaluations")
    axis.axvline(1, color="gray", linewidth=1)
    axis.set_yticks(range(len(summary)), [name.partition("@")[0] for name in summary])
    axis.set_xlabel("mean L2 of minimum_norm over that of the best single peer (left is closer)")
    axis.legend(loc="center right", fontsize="small")
    axis.invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _budget(row: dict[str, Any]) -> int:
    """Of ours with references; 0 for other methods."""
    return int(row["method"].rpartition("-")[2]) if row["method"].startswith("advlab-ref-") else 0


def _spelled(method: str, subject: Subject) -> str:
    return method.removesuffix("N") + str(subject.budget) if method.endswith("-N") else method


def _accuracy(subject: Subject, network: nn.Module) -> float:
    if subject.data == PHOTOS:
        return 1 - models.error_rate(network, *_photos(getattr(network, "size", 224)))
    test = data.load(subject.data, split="test")
    return 1 - models.error_rate(network, test.images, test.labels)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(tyro.cli(Config))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
