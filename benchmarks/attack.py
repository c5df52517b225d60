"""Minimal-distortion attacks side by side: the same models, the same images, one process.

    python benchmarks/attack.py --images 1000 --seeds 3

writes a table (terminal and Markdown) and a plot of distortion against evaluations and time. Finished
(model, seed, method) cells are kept in ``--cache`` and are not run again.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import tyro
from attack_methods import resolve
from linear_exact import linear_minimum
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from advlab import data, models
from advlab.errors import UserError

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

DEFAULT_METHODS = (
    "advlab-64,advlab-96,advlab-160,advlab-220,advlab-96-float64,alma-100,alma-1000,ddn-1000,fmn-1000,cw-9x111,"
    "foolbox-ddn-1000,foolbox-fmn-1000,foolbox-cw-9x111,scipy-runner-up,scipy-nearest"
)
LINEAR_ONLY = ("advlab-96-float64",)
"""Methods for models whose optimum is known; in double precision the rounding allowance vanishes."""
SCIPY = "scipy"
"""Methods that start so attack a few images, one at a time."""
FIRST_SEED = 1000
"""Of the image draws; the attack's constants were tuned on images that seed 0 draws."""
WITHIN = 1.001
"""A method is best on an image when no other is closer by more than this factor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to compare."""

    models: str = "softmax1e-4,fc100-100-10,relu300-150-10,conv"
    """Zoo names, comma separated."""
    methods: str = DEFAULT_METHODS
    """Methods, comma separated."""
    images: int = 1000
    """Test images per draw."""
    seeds: int = 3
    """Draws of the images."""
    scipy_images: int = 20
    """Images of each draw that SciPy attacks, one at a time."""
    batch_size: int = 500
    """Images that a peer attacks at once (ours does the same)."""
    threads: int = 1
    """Torch threads."""
    cap: float = 10.0
    """Distance that stands for a failure in means and optimalities."""
    cache: Path = Path("attack_benchmark")
    """Where finished cells, the table and the plot go."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One method on one draw of images against one model.

    Attributes:
        distances: [B], ‖x' − x‖₂; 0 for images that are misclassified when clean, infinite for failures (judged again).
        evaluations: per image.
        seconds: of processor time, per image.
        error: why the method gave up, if it did; all of its distances are then infinite.
    """

    distances: np.ndarray
    evaluations: float
    seconds: float
    error: str = ""


def measure(
    name: str,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    references: Tensor | None = None,
) -> Cell:
    """Run and time one method; whatever it claims, its candidates are judged by a fresh forward pass."""
    run = resolve(name, references)
    candidates, evaluations = [], 0
    with contextlib.suppress(AssertionError):  # two images may give Brendel-Bethge no start
        run(network, images[:2], labels[:2])  # imports and first-call allocations are not the method's time
    begin = time.process_time()  # of this process alone: whatever else the machine does does not count
    for first in range(0, len(images), batch_size):
        rows = slice(first, first + batch_size)
        outcome = run(network, images[rows], labels[rows])
        candidates.append(outcome.candidates.detach())
        evaluations += outcome.evaluations
    seconds = time.process_time() - begin
    found = torch.cat(candidates)
    judge = copy.deepcopy(network).to(found.dtype)
    with torch.no_grad():
        misclassified = judge(found).argmax(1) != labels
        clean = network(images).argmax(1) != labels
    inside = ((found >= 0) & (found <= 1)).flatten(1).all(1)
    distances = (found.double() - images.double()).flatten(1).norm(dim=1)
    distances = distances.masked_fill(~(misclassified & inside), torch.inf).masked_fill(clean, 0)
    return Cell(distances.numpy(), evaluations / len(images), seconds / len(images))


def cached(path: Path, compute: Callable[[], Cell]) -> Cell:
    """The cell kept at ``path``, or computed and kept there now."""
    if path.exists():
        kept = np.load(path)
        error = str(kept["error"]) if "error" in kept else ""
        return Cell(kept["distances"], float(kept["evaluations"]), float(kept["seconds"]), error)
    cell = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **asdict(cell))
    partial.rename(path)
    logging.info("%s: %.2f s per 1,000 images %s", path.stem, 1000 * cell.seconds, cell.error)
    return cell


def load_or_measure(
    config: Config, model: str, seed: int, method: str, network: nn.Module, images: Tensor, labels: Tensor
) -> Cell:
    """The cell from the cache, or measured now."""
    path = config.cache / "cells" / f"{model}-{seed}-{config.images}-{method}.npz"
    if method.startswith(SCIPY):
        images, labels = images[: config.scipy_images], labels[: config.scipy_images]
    return cached(path, lambda: measure(method, network, images, labels, config.batch_size))


def local_optimality(distances: np.ndarray, envelope: np.ndarray, cap: float) -> float:
    """AttackBench's ξ, with the areas under the robust accuracy integrated exactly: ∫₀^cap ρ = mean min(d, cap)."""
    worst = cap * float((envelope > 0).mean())
    reach = worst - float(np.minimum(envelope, cap).mean())
    return (worst - float(np.minimum(distances, cap).mean())) / reach if reach > 0 else float("nan")


def summarise(cells: dict[str, list[Cell]], optimum: np.ndarray | None, cap: float) -> list[dict[str, Any]]:
    """One row per method, over all draws of one model; SciPy is compared on its own images."""
    whole = {
        name: np.concatenate([cell.distances for cell in draws])
        for name, draws in cells.items()
        if not name.startswith(SCIPY)
    }
    envelope = np.min(list(whole.values()), axis=0)
    peers = [value for name, value in whole.items() if not name.startswith("advlab")]
    peer_envelope = np.min(peers, axis=0) if peers else envelope
    rows = []
    for name, draws in cells.items():
        distances = np.concatenate([cell.distances for cell in draws])
        chosen = _subset(draws, cells) if name.startswith(SCIPY) else np.arange(len(envelope))
        best, rivals = envelope[chosen], peer_envelope[chosen]
        attacked = best > 0
        hit = np.isfinite(distances)
        row = {
            "method": name,
            "images": len(distances),
            "success": float(hit.mean()),
            "mean_l2": float(np.minimum(distances, cap).mean()),
            "median_l2": float(np.median(distances)),
            "best": float((distances <= best * WITHIN)[attacked].mean()),
            "unbeaten_by_peers": float((distances <= rivals * WITHIN)[attacked].mean()),
            "to_peers": float(np.minimum(distances, cap).sum() / np.minimum(rivals, cap).sum()),
            "optimality": local_optimality(distances, best, cap),
            "evaluations": float(np.mean([cell.evaluations for cell in draws])),
            "ms_per_image": 1000 * float(np.mean([cell.seconds for cell in draws])),
        }
        if optimum is not None and (attacked & hit).any():
            exact = optimum[chosen]
            judged = attacked & hit
            row |= {
                "over_optimum": float(distances[judged].sum() / exact[judged].sum() - 1),
                "worst": float((distances[judged] / exact[judged]).max() - 1),
                "worst_excess": float((distances[judged] - exact[judged]).max()),
                "near_optimum": float((distances[judged] <= exact[judged] * WITHIN).mean()),
            }
        rows.append(row)
    return rows


def _subset(draws: Sequence[Cell], cells: dict[str, list[Cell]]) -> np.ndarray:
    size = next(len(cell.distances) for name, others in cells.items() if not name.startswith(SCIPY) for cell in others)
    return np.concatenate([draw * size + np.arange(len(cell.distances)) for draw, cell in enumerate(draws)])


COLUMNS = {
    "method": ("Method", "{}"),
    "success": ("Success", "{:.1%}"),
    "mean_l2": ("Mean L2", "{:.4f}"),
    "median_l2": ("Median L2", "{:.4f}"),
    "to_peers": ("Mean / peers' envelope", "{:.4f}"),
    "best": ("Best within 0.1%", "{:.1%}"),
    "unbeaten_by_peers": ("No peer better by 0.1%", "{:.1%}"),
    "optimality": ("ξ", "{:.4f}"),
    "evaluations": ("Evaluations", "{:.0f}"),
    "ms_per_image": ("ms / image", "{:.2f}"),
    "over_optimum": ("Mean over optimum", "{:.1e}"),
    "worst": ("Worst over optimum", "{:.1e}"),
    "worst_excess": ("Worst − optimum", "{:.1e}"),
    "near_optimum": ("Optimal within 0.1%", "{:.2%}"),
}


def show(title: str, rows: list[dict[str, Any]], columns: dict[str, tuple[str, str]] = COLUMNS) -> tuple[Table, str]:
    """The rows as a terminal table and as Markdown; of ``columns`` (head, format) those that the first row has."""
    columns = {key: value for key, value in columns.items() if key in rows[0]}
    table = Table(title=title)
    for key, (head, _) in columns.items():
        table.add_column(head, justify="left" if key == "method" else "right")
    lines = [f"### {title}", "", "| " + " | ".join(head for head, _ in columns.values()) + " |"]
    lines.append("|" + "|".join("---" if key == "method" else "---:" for key in columns) + "|")
    for row in rows:
        texts = [form.format(row.get(key, float("nan"))) for key, (_, form) in columns.items()]
        table.add_row(*texts)
        lines.append("| " + " | ".join(texts) + " |")
    return table, "\n".join([*lines, ""])


def plot(summary: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Mean distortion against evaluations and against time, one column per model; a legend names the methods."""
    figure, axes = plt.subplots(2, len(summary), figsize=(4 * len(summary), 7), squeeze=False, layout="constrained")
    shown: dict[str, Any] = {}
    for column, (model, rows) in enumerate(summary.items()):
        best = min(row["mean_l2"] for row in rows if not row["method"].startswith(SCIPY))
        for axis, key, unit in (
            (axes[0, column], "evaluations", "evaluations"),
            (axes[1, column], "ms_per_image", "ms"),
        ):
            for row in rows:
                if row["method"] in LINEAR_ONLY:
                    continue
                point = row[key], row["mean_l2"] / best
                if 0.995 <= point[1] <= 1.08:
                    look = shown.get(row["method"]) or _look(row["method"], list(shown))
                    shown[row["method"]] = look
                    axis.plot(*point, linestyle="none", label=row["method"], markersize=7, alpha=0.85, **look)
            axis.set(xscale="log", xlabel=f"{unit} per image", ylim=(0.995, 1.08))
            axis.xaxis.set_minor_formatter(NullFormatter())
        axes[0, column].set_title(model)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean L2 / best mean L2")
    figure.suptitle("red: advlab's minimum_norm, by budget; other colours: peers (those above 1.08 are not shown)")
    entries = [mpl.lines.Line2D([], [], linestyle="none", label=name, **look) for name, look in shown.items()]
    figure.legend(handles=entries, loc="outside lower center", ncols=len(entries), frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _look(method: str, others: list[str]) -> dict[str, Any]:
    """A marker that tells a method from the others: ours are red and round, darker with the budget."""
    ours = method.startswith("advlab")
    place = sum(other.startswith("advlab") == ours for other in others)
    if ours:
        return {"marker": "o", "color": mpl.colormaps["Reds"](0.35 + 0.15 * (place % 5)), "markeredgecolor": "tab:red"}
    return {"marker": "x+^sDv*Ph"[place % 9], "color": mpl.colormaps["winter"](0.25 * (place % 5)), "fillstyle": "none"}


def run(config: Config) -> dict[str, list[dict[str, Any]]]:
    """Measure everything and write table.md, summary.json and plot.png into the cache directory."""
    torch.set_num_threads(config.threads)
    test = data.load("mnist", split="test")
    if not 0 < config.images <= len(test.labels) or config.seeds < 1:
        raise UserError(f"--images {config.images} --seeds {config.seeds}: give 1..{len(test.labels)} and at least 1.")
    summary: dict[str, list[dict[str, Any]]] = {}
    console, markdown = Console(width=160), []
    for model in config.models.split(","):
        network = models.load(model, data="mnist", seed=0)
        linear = [part for part in network.modules() if isinstance(part, nn.Linear)]
        exact = linear[0] if model.startswith("softmax") and len(linear) == 1 else None
        methods = [name for name in config.methods.split(",") if exact is not None or name not in LINEAR_ONLY]
        cells: dict[str, list[Cell]] = {name: [] for name in methods}
        optimum = []
        for seed in range(config.seeds):
            rows = torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(FIRST_SEED + seed))[
                : config.images
            ]
            images, labels = test.images[rows], test.labels[rows]
            if exact is not None:
                optimum.append(linear_minimum(exact, images, labels).l2.numpy())
            for name, draws in cells.items():
                draws.append(load_or_measure(config, model, seed, name, network, images, labels))
        summary[model] = summarise(cells, np.concatenate(optimum) if optimum else None, config.cap)
        table, text = show(f"{model}: {config.seeds} × {config.images} MNIST test images", summary[model])
        console.print(table)
        markdown.append(text)
    markdown.append(global_optimality(summary))
    (config.cache / "table.md").write_text("\n".join(markdown))
    (config.cache / "summary.json").write_text(json.dumps(summary, indent=1))
    plot(summary, config.cache / "plot.png")
    return summary


def global_optimality(summary: dict[str, list[dict[str, Any]]]) -> str:
    """AttackBench's Ξ per method: the mean of ξ over the models."""
    common = set.intersection(*({row["method"] for row in rows} for rows in summary.values()))
    names = [row["method"] for row in next(iter(summary.values())) if row["method"] in common]
    names = [name for name in names if not name.startswith(SCIPY)]
    values = {
        name: np.mean([row["optimality"] for rows in summary.values() for row in rows if row["method"] == name])
        for name in names
    }
    lines = ["### Global optimality Ξ", "", "| Method | Ξ |", "|---|---:|"]
    return "\n".join([*lines, *(f"| {name} | {value:.4f} |" for name, value in values.items()), ""])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(tyro.cli(Config))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
