"""The paper's attack compared with SciPy's L-BFGS-B, one image at a time, on the same images and random targets.

    python benchmarks/szegedy.py --models fc100-100-10 softmax1e-4 --images 1000 --scipy 30

``same search`` uses SciPy for every solve of our own search over c; ``10 bisections`` is the simple method: c between
1e-4 and 1e2, every solve from the clean image, SciPy's defaults. ``distance`` is the mean of ‖r‖₂ divided by ours, on
the images that SciPy attacks too; seconds are processor time on one thread; ``model`` is the share of the time spent in
the model, forward and backward.
"""

from __future__ import annotations

import argparse
import time
from typing import Literal

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional

from advlab import data, models
from advlab.attacks import targets
from advlab.attacks.szegedy import szegedy_lbfgs


class Timed(torch.autograd.Function):
    """The model as one function, so that its backward pass can be timed."""

    seconds = 0.0

    @staticmethod
    def forward(context: object, images: Tensor, model: nn.Module) -> Tensor:
        begin = time.process_time()
        leaf = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(leaf)
        context.graph = (leaf, logits)  # type: ignore[attr-defined]
        Timed.seconds += time.process_time() - begin
        return logits.detach()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> tuple[Tensor, None]:
        begin = time.process_time()
        leaf, logits = context.graph  # type: ignore[attr-defined]
        (answer,) = torch.autograd.grad(logits, leaf, gradient)
        Timed.seconds += time.process_time() - begin
        return answer, None


def ours(
    model: nn.Module, images: Tensor, labels: Tensor, target: Tensor, reference: Literal["scipy"] | None = None
) -> tuple[Tensor, Tensor, float, float]:
    """Distances [B], evaluations [B], seconds, and those of them in the model."""
    Timed.seconds, begin = 0.0, time.process_time()
    found = szegedy_lbfgs(lambda x: Timed.apply(x, model), images, labels, target, reference=reference)
    return found.l2, found.evaluations, time.process_time() - begin, Timed.seconds


def bisected(
    model: nn.Module, images: Tensor, labels: Tensor, target: Tensor, bisections: int = 10
) -> tuple[Tensor, Tensor, float, float]:
    """The same of the plain recipe."""
    Timed.seconds, begin = 0.0, time.process_time()
    distances, evaluations = torch.full((len(labels),), torch.inf), torch.zeros_like(labels)
    for row, label in enumerate(target):
        clean = images[row].double().flatten().numpy()
        c, low, high = 0.0, 1e-4, 1e2

        def objective(x: np.ndarray, label: Tensor = label, clean: np.ndarray = clean) -> tuple[float, np.ndarray]:
            leaf = torch.from_numpy(x).float().view(1, *images.shape[1:]).requires_grad_()
            loss = functional.cross_entropy(Timed.apply(leaf, model), label[None])
            (gradient,) = torch.autograd.grad(loss, leaf)
            r = x - clean
            return loss.item() + c * float(r @ r), gradient.double().flatten().numpy() + 2 * c * r  # noqa: B023

        for _ in range(bisections):
            c = (low * high) ** 0.5
            bounds, options = [(0, 1)] * len(clean), {"maxiter": 100}
            solved = minimize(objective, clean, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
            evaluations[row] += solved.nfev
            with torch.no_grad():
                reached = bool(model(torch.from_numpy(solved.x).float().view(1, *images.shape[1:])).argmax() == label)
            low, high = (c, high) if reached else (low, c)
            if reached:
                distances[row] = min(distances[row], float(np.linalg.norm(solved.x - clean)))
    return distances, evaluations, time.process_time() - begin, Timed.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["fc100-100-10", "softmax1e-4"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--scipy", type=int, default=30, help="how many of them SciPy attacks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    test = data.load("mnist", split="test").subset(slice(2 * arguments.images))
    print(f"{'model':<14}{'solver':<22}{'images':>7}{'distance':>10}{'evaluations':>13}{'ms/image':>10}{'model':>7}")
    for name in arguments.models:
        model = models.load(name, data="mnist", seed=0)
        with torch.no_grad():
            logits = model(test.images)
        rows = (logits.argmax(1) == test.labels).nonzero().squeeze(1)[: arguments.images]
        images, labels = test.images[rows], test.labels[rows]
        problems = (images, labels, targets.choose("random", logits[rows], labels))
        few = [tensor[: arguments.scipy] for tensor in problems]
        ours(model, *few)
        results = {
            "advlab": ours(model, *problems),
            "SciPy, same search": ours(model, *few, reference="scipy"),
            "SciPy, 10 bisections": bisected(model, *few),
        }
        best = results["advlab"][0][: arguments.scipy].mean()
        for solver, (distances, evaluations, seconds, inside) in results.items():
            print(
                f"{name:<14}{solver:<22}{len(distances):>7}{distances[: arguments.scipy].mean() / best:>10.4f}"
                f"{evaluations.double().mean():>13.1f}{1e3 * seconds / len(distances):>10.2f}{inside / seconds:>7.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
