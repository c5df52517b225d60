"""The effect of penalised frame bounds in training on the minimum distortion, on MNIST.

    python benchmarks/lipschitz_penalty.py [--model relu300-150-10] [--images 300] [--epochs 5]

Every row is one network, trained from the same initial weights by the recipe's own minibatches. Distortion is the
smallest L2 distance that `minimum_norm` finds for the correctly classified among the first test images; `bound` is the
product of the layers' factors, `Jacobian` the largest gain measured at one of 20 images. Models are cached.
"""

from __future__ import annotations

import argparse

import torch
from layer_penalties import fit

from advlab import data, models
from advlab.analysis.amplification import jacobian_norms
from advlab.analysis.layer_graph import Network
from advlab.analysis.lipschitz import product_bounds
from advlab.attacks import minimum_norm
from advlab.models import Checkpoint, Recipe, checkpoint, zoo

TRAINER = "advlab.analysis.penalty:fit"  # the name that earlier checkpoints in the cache bear
models.register("trainer", TRAINER, fit)
SETTINGS = [("lipschitz", 0.0), ("lipschitz", 1e-3), ("lipschitz", 1e-2), ("lipschitz", 1e-1), ("parseval", 1e-2)]


def trained(model: str, kind: str, penalty: float, epochs: int) -> Checkpoint:
    train, test = data.load("mnist"), data.load("mnist", split="test")
    plain = zoo.recipe(model, train)
    recipe = Recipe(
        name=f"{model} {kind} {penalty:g}",
        network=plain.network,
        network_arguments=plain.network_arguments,
        trainer=TRAINER,
        trainer_arguments={"penalty": penalty, "kind": kind, "epochs": epochs},
    )
    found = checkpoint.find(recipe)
    if found is None:
        found = checkpoint.train(recipe, train, test, device=torch.device("cpu"))
        checkpoint.save(found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="relu300-150-10")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    test = data.load("mnist", split="test").subset(slice(options.images))
    print("| penalty | test error % | largest layer norm | bound | Jacobian | median L2 | mean L2 |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for kind, penalty in SETTINGS:
        model = trained(options.model, kind, penalty, options.epochs)
        network = model.network()
        right = network(test.images).argmax(1) == test.labels
        found = minimum_norm(network, test.images[right], test.labels[right])
        graph = Network(network, tuple(test.images.shape[1:]))
        bound = product_bounds(graph)[graph.nodes[-1]]
        gain = float(jacobian_norms(network, test.images[:20], iterations=30).max())
        name = f"{kind} {penalty:g}" if penalty else "none"
        l2 = found.l2[found.success]
        print(
            f"| {name} | {100 * model.report['test_error']:.2f} | {model.report['largest_norm']:.2f} | {bound:.1f} | "
            f"{gain:.2f} | {float(l2.median()):.3f} | {float(l2.mean()):.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
