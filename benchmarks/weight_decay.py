"""The readings of the paper's weight decay: the three softmax classifiers of Table 1 under each.

Prints a Markdown table of errors in per cent, training / test. About three minutes on two cores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import torch

from advlab import data
from advlab.models import checkpoint, zoo
from advlab.training.decay import Convention


def main() -> None:
    """Train and print."""
    train, test = data.load("mnist", "train"), data.load("mnist", "test")
    names = zoo.PAPER[:3]
    print("| convention |", " | ".join(names), "|")
    print("|---|", *["---|"] * len(names), sep="")
    for convention in get_args(Convention):
        cells = []
        for name in names:
            recipe = zoo.recipe(name, train)
            recipe = replace(recipe, trainer_arguments={**recipe.trainer_arguments, "decay_convention": convention})
            report = checkpoint.train(recipe, train, test, device=torch.device("cpu")).report
            cells.append(f"{100 * report['train_error']:.2f} / {100 * report['test_error']:.2f}")
        print(f"| `{convention}` |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
