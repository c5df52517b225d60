"""Our attacks and adv-lib's in AttackBench's own runner, with its budget, counting, distances and optimality.

    pip install --no-deps adv-lib attackbenchlib
    python benchmarks/by_attackbench.py --only conv3x3-12-24@p1@1,vit --images 50

AttackBench assigns every row of a forward pass to the *nearest* image of the batch, and counts it for that image. Our
attacks evaluate several points of an image at once, some of which may be closer to another image of the batch. So they
get batches of one image; peers, which keep one row per image close to it, get larger batches.

Its default clamp of the model's input is disabled: the gradient of torch's ``clamp`` is 0 at the bounds (at least since
2.14), where most pixels of MNIST are, and every attack would end about twice as far away. All of these attacks stay in
the box by themselves, and AttackBench reports those that do not.
"""

from __future__ import annotations

import functools
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attackbench
import numpy as np
import torch
import tyro
from attack import FIRST_SEED, show
from attack_methods import adv_lib
from attackbench.models.benchmodel_wrapper import BenchModel
from panel import Config as PanelConfig
from panel import chosen, images_of, load
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from advlab.attacks.minimum_norm import minimum_norm
from advlab.attacks.szegedy import szegedy_lbfgs
from advlab.errors import UserError

BUDGET = attackbench.DEFAULT_QUERY_BUDGET
"""Forward and backward passes per image."""
SYNTHETIC = 40
"""Passes left for the synthetic references of `minimum_norm`, looked at once per call: here a call is an image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to compare."""

    only: str = "conv3x3-12-24@p1@1,conv3x3-14-28-linf0.3,vit-32-4"
    """Networks of the judging panel whose names contain one of these, comma separated."""
    attacks: str = "minimum-norm,szegedy-lbfgs,alma_l2,ddn_NQ,fmn,pdgd,fab,apgd_t_minimal"
    """Ours, and the names of AttackBench's configurations of adv-lib's."""
    images: int = 50
    """Test images per network."""
    batch_size: int = 50
    """Images that adv-lib's attacks are given at once."""
    threads: int = 1
    """Torch threads."""
    cache: Path = Path("attack_panel")
    """Where finished runs and the table go."""


def minimum_norm_attack(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """`minimum_norm` with evaluations for nearly the budget: most are a forward and a backward pass."""
    return minimum_norm(model, inputs, labels, max_evaluations=(BUDGET - SYNTHETIC) // 2).images


def szegedy_attack(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """`szegedy_lbfgs` towards the runner-up; out of budget the runner answers with a constant, and it ends."""
    return szegedy_lbfgs(model, inputs, labels, target="runner-up").images


OURS: dict[str, Callable[..., Tensor]] = {"minimum-norm": minimum_norm_attack, "szegedy-lbfgs": szegedy_attack}


def resolve(name: str) -> Callable[..., Tensor]:
    """The attack as AttackBench calls it.

    Raises:
        UserError: an unknown name.
    """
    if name in OURS:
        return OURS[name]
    adv_lib()  # AttackBench imports it without a stand-in for its plotting client
    from attackbench.attacks.adv_lib import configs
    from attackbench.attacks.adv_lib.wrapper import adv_lib_wrapper

    config = getattr(configs, f"adv_lib_{name}", None)
    if config is None:
        raise UserError(f"unknown attack {name!r}; choose among {', '.join(OURS)} and AttackBench's adv_lib_* names.")
    options = config()
    family = getattr(configs, f"get_adv_lib_{name}", None) or getattr(configs, f"get_adv_lib_{options['name']}")
    parameters = family.__code__.co_varnames[: family.__code__.co_argcount]
    given = {key: value for key, value in (options | {"threat_model": "l2"}).items() if key in parameters}
    return functools.partial(adv_lib_wrapper, attack=family(**given))


def judged(name: str, network: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> dict[str, Any]:
    """What AttackBench's ``run_attack`` returns, each image for itself if the attack is ours."""
    loader = DataLoader(TensorDataset(images, labels), batch_size=1 if name in OURS else batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says for every batch that the budget is spent
        tracked = BenchModel(network, enforce_box=False)
        return attackbench.run_attack(tracked, loader, resolve(name), "l2", attack_name=name, model_name="panel")


def rows(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per attack on one network; ξ is AttackBench's, against the image-wise best of all of them."""
    made = []
    for name, result in results.items():
        distances = np.asarray(result["distances"]["l2"])
        hit = np.isfinite(distances)
        local = attackbench.compute_local_optimality(result, list(results.values()), "l2", use_wandb=False)
        made.append(
            {
                "attack": name,
                "success": float(hit.mean()),
                "mean_l2": float(distances[hit].mean()) if hit.any() else float("nan"),
                "optimality": local["optimality"],
                "forwards": float(np.mean(result["num_forwards"])),
                "backwards": float(np.mean(result["num_backwards"])),
                "ms_per_image": 1000 * float(np.sum(result["times"])) / len(distances),
            }
        )
    return made


COLUMNS = {
    "attack": ("Attack", "{}"),
    "success": ("Success", "{:.1%}"),
    "mean_l2": ("Mean L2 of successes", "{:.4f}"),
    "optimality": ("ξ", "{:.4f}"),
    "forwards": ("Forward passes", "{:.0f}"),
    "backwards": ("Backward passes", "{:.0f}"),
    "ms_per_image": ("ms / image", "{:.1f}"),
}


def run(config: Config) -> None:
    """Run everything that is not in the cache; print a table per network and the global optimality."""
    torch.set_num_threads(config.threads)
    console, markdown, scores = Console(width=160), [], {}
    for subject in chosen(PanelConfig(only=config.only)):
        network = load(subject, config.cache)
        images, labels = images_of(subject, FIRST_SEED, network, config.images)
        results = {}
        for name in config.attacks.split(","):
            path = config.cache / "attackbench" / f"{subject.name}-{len(images)}-{name}.json"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(judged(name, network, images, labels, config.batch_size), default=str))
            results[name] = json.loads(path.read_text())
        table, text = show(f"{subject.name}: {len(images)} images", summary := rows(results), COLUMNS)
        console.print(table)
        markdown.append(text)
        scores[subject.name] = {row["attack"]: row["optimality"] for row in summary}
    overall = {name: np.mean([local[name] for local in scores.values()]) for name in config.attacks.split(",")}
    lines = ["### Global optimality", "", "| Attack | Ξ |", "|---|---:|"]
    markdown.append("\n".join([*lines, *(f"| {name} | {value:.4f} |" for name, value in overall.items()), ""]))
    console.print(markdown[-1])
    (config.cache / "attackbench.md").write_text("\n".join(markdown))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        run(tyro.cli(Config))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
