"""Training choices that the paper leaves open for its sigmoid networks, compared on validation images.

    python benchmarks/training_choices.py --seeds 3 --processes 2
    python benchmarks/training_choices.py --choices "tenfold decay" --seeds 5 --final

Networks are trained on the first 50,000 training images by full-batch L-BFGS and evaluated on the last 10,000. One
choice is changed at a time: initial weights, the scale of the pixels, the reading of the weight decay, its size. The
early stop is, of every tenth iterate, the one with the smallest cross entropy on the validation images. Each network
takes four minutes of one core, eleven with a tenfold decay. ``--final`` trains on all 60,000 images and measures the
test error: use it only for choices made by the table of the first command.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional

from advlab import data
from advlab.data import Dataset
from advlab.models.mlp import MLP, initialise
from advlab.training.decay import Convention, WeightDecay
from advlab.training.full_batch import minimise_cross_entropy
from advlab.transfer.seeds import estimate


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to train; the defaults are the zoo's."""

    initial_weights: str = "glorot"
    pixels: str = "0 to 1"
    decay: Convention = "half"
    strength: float = 1.0
    """What the paper's λ, 1e-5 on hidden layers and 1e-6 on the last, is multiplied by."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Errors on the held-out images in per cent."""

    last: float
    early: float
    iterations: int


CHOICES = {
    "the zoo's": Choice(),
    "wide": Choice(initial_weights="wide"),
    "sparse": Choice(initial_weights="sparse"),
    "pixels -1 to 1": Choice(pixels="-1 to 1"),
    "pixels standardised": Choice(pixels="standardised"),
    "λ Σ w²": Choice(decay="plain"),
    "fivefold decay": Choice(strength=5.0),
    "tenfold decay": Choice(strength=10.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to try."""

    hidden: tuple[int, ...] = (100, 100)
    """Units of the hidden layers."""
    choices: tuple[str, ...] = field(default=tuple(CHOICES))
    """Rows of the table."""
    seeds: int = 3
    """Seeds of the initial weights, from 0."""
    processes: int = 1
    """Networks trained at a time, each by one thread."""
    final: bool = False
    """Train on the whole training set and try on the test set."""


class Pixels(nn.Module):
    """Images [B, ...] in [0, 1] → the range that the network is shown."""

    def __init__(self, pixels: str, images: torch.Tensor) -> None:
        super().__init__()
        deviation, mean = (float(value) for value in torch.std_mean(images))
        self.shift, self.scale = {"0 to 1": (0.0, 1.0), "-1 to 1": (0.5, 2.0), "standardised": (mean, 1 / deviation)}[
            pixels
        ]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.shift) * self.scale


def train(choice: Choice, hidden: tuple[int, ...], seed: int, final: bool) -> Outcome:
    torch.set_num_threads(1)
    fit, held_out = (data.load("mnist", split) for split in (("train", "test") if final else ("fit", "validation")))
    mlp = MLP([784, *hidden, fit.num_classes], "sigmoid")
    initialise(mlp, choice.initial_weights, torch.Generator().manual_seed(seed))
    network = nn.Sequential(Pixels(choice.pixels, fit.images), mlp)
    tried: list[tuple[float, float]] = []

    def progress(iteration: int, _told: dict[str, Any]) -> None:
        if iteration % 10 == 0 and not final:
            tried.append(measure(network, held_out))

    told = minimise_cross_entropy(
        network,
        fit.images,
        fit.labels,
        penalty=WeightDecay(mlp, [λ * choice.strength for λ in (*[1e-5] * len(hidden), 1e-6)], choice.decay),
        progress=progress,
        gradient_tolerance=1e-5,
        loss_tolerance=1e-7,
        max_iterations=5000,
    )
    return Outcome(measure(network, held_out)[1], min(tried, default=(0.0, math.nan))[1], told["iterations"])


@torch.no_grad()
def measure(network: nn.Module, images: Dataset) -> tuple[float, float]:
    """Mean cross entropy, and error in per cent."""
    logits = network(images.images)
    wrong = (logits.argmax(1) != images.labels).double().mean()
    return float(functional.cross_entropy(logits, images.labels)), 100 * float(wrong)


def main(config: Config) -> None:
    began, console = time.perf_counter(), Console()
    found: dict[str, list[Outcome]] = {name: [] for name in config.choices}
    with ProcessPoolExecutor(config.processes, mp_context=get_context("spawn")) as pool:
        runs = [
            (name, pool.submit(train, CHOICES[name], config.hidden, seed, config.final))
            for seed, name in product(range(config.seeds), config.choices)
        ]
        for name, run in runs:
            found[name].append(run.result())
            console.print(f"{name}, seed {len(found[name]) - 1}: {found[name][-1]}", highlight=False)
    which = "test" if config.final else "validation"
    table = Table("choice", f"{which} error %", "95% interval", "seed by seed", "stopped early %", "iterations")
    for name, outcomes in found.items():
        last, early = (estimate([getattr(one, key) for one in outcomes]) for key in ("last", "early"))
        table.add_row(
            name,
            f"{last.mean:.2f}",
            "one seed" if last.n == 1 else f"± {last.half_width:.2f}",
            ", ".join(f"{one.last:.2f}" for one in outcomes),
            "" if config.final else f"{early.mean:.2f}",
            f"{sum(one.iterations for one in outcomes) / len(outcomes):.0f}",
        )
    console.print(table)
    console.print(f"{time.perf_counter() - began:.0f} seconds, {config.processes} at a time, torch {torch.__version__}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
