"""``minimum_norm`` on all training images of MNIST: time per image and memory, by their number.

Prints a Markdown table. With the defaults, a few minutes on one thread.
"""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import torch
import tyro

from advlab import data, models
from advlab.attacks import minimum_norm


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Command line."""

    model: str = "fc100-100-10"
    """Zoo name."""

    sizes: tuple[int, ...] = (1_000, 10_000, 60_000)
    """Numbers of images."""

    max_evaluations: int = 64
    """Budget per image."""

    threads: int = 1
    """Threads of PyTorch."""


def main(options: Options) -> None:
    """Attack and print."""
    torch.set_num_threads(options.threads)
    train = data.load("mnist", "train")
    model = models.load(options.model)
    minimum_norm(model, train.images[:256], train.labels[:256], max_evaluations=options.max_evaluations)  # warm up
    print(
        "| images | CPU seconds | ms per image | mean L2 | success | peak resident GiB |\n"
        "|---:|---:|---:|---:|---:|---:|"
    )
    for size in options.sizes:
        started = time.process_time()
        found = minimum_norm(model, train.images[:size], train.labels[:size], max_evaluations=options.max_evaluations)
        seconds = time.process_time() - started
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"| {size:,} | {seconds:.1f} | {1000 * seconds / size:.3f} | {float(found.l2.mean()):.4f} "
            f"| {float(found.success.double().mean()):.2%} | {resident:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
