"""The batched L-BFGS-B compared with SciPy's on one problem at a time: objective, evaluations and time.

    python benchmarks/lbfgsb.py --problems 1000 --scipy 50 --history 3 5 10

Every row is one solver on one family of problems. ``gap`` is the mean excess of the objective over the best of all
rows, over the problems that SciPy solves too; ``own`` is the share of the time spent outside the objective.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from advlab.optim import lbfgsb

Family = tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], Tensor]
GTOL, FTOL = 1e-5, 1e-9


def quadratics(num: int, n: int = 100, condition: float = 1e3) -> Family:
    """½xᵀAx − bᵀx on the unit box, a third to a half of the bounds active."""
    basis = torch.linalg.qr(torch.randn(num, n, n))[0]
    matrix = basis * torch.logspace(0, float(np.log10(condition)), n) @ basis.mT
    linear = matrix @ torch.randn(num, n, 1)

    def fun(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        b = linear[rows]
        product = torch.bmm(matrix[rows], x[:, :, None])
        return (x[:, :, None] * (product / 2 - b)).sum((1, 2)), (product - b).squeeze(2)

    return fun, torch.rand(num, n)


def attacks(num: int, activation: Callable[[Tensor], Tensor], c: float, n: int = 784) -> Family:
    """c‖x − x₀‖² + cross entropy of a 784-100-100-10 network towards its least likely class, on the unit box."""
    sizes = (n, 100, 100, 10)
    weights = [torch.randn(a, b) * (2 / a) ** 0.5 for a, b in itertools.pairwise(sizes)]
    images = 4 * (torch.rand(num, n) - 0.75).clamp(min=0)

    def logits(x: Tensor) -> Tensor:
        for weight in weights[:-1]:
            x = activation(x @ weight)
        return 3 * x @ weights[-1]

    target = logits(images).argmin(1)

    def fun(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        losses = torch.nn.functional.cross_entropy(logits(x), target[rows], reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), x)
        perturbation = x.detach() - images[rows]
        return losses.detach() + c * perturbation.square().sum(1), gradient.add_(perturbation, alpha=2 * c)

    return fun, images


def batched(family: Family, history: int) -> tuple[Tensor, float, float, float]:
    """Objectives [B], evaluations per problem, milliseconds per problem, share of time outside the objective."""
    fun, start = family
    inside = 0.0

    def timed(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal inside
        begin = time.process_time()
        answer = fun(x, rows)
        inside += time.process_time() - begin
        return answer

    begin = time.process_time()
    result = lbfgsb.minimize(timed, start, 0.0, 1.0, history=history, max_iter=1000, gtol=GTOL, ftol=FTOL)
    total = time.process_time() - begin
    return result.fun, result.evaluations.double().mean().item(), 1e3 * total / len(start), 1 - inside / total


def scipy(family: Family, history: int, num: int) -> tuple[Tensor, float, float, float]:
    """The same of SciPy on the first ``num`` problems."""
    fun, start = family
    inside, evaluations, values = 0.0, 0, []
    begin = time.process_time()
    for row in range(num):

        def objective(x: np.ndarray, row: int = row) -> tuple[float, np.ndarray]:
            nonlocal inside
            enter = time.process_time()
            value, gradient = fun(torch.from_numpy(x).to(start)[None], torch.tensor([row]))
            inside += time.process_time() - enter
            return value.item(), gradient[0].double().numpy()

        options = {"maxcor": history, "gtol": GTOL, "ftol": FTOL, "maxiter": 1000}
        bounds = [(0, 1)] * start.shape[1]
        answer = scipy_minimize(
            objective, start[row].double().numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        values.append(float(answer.fun))
        evaluations += int(answer.nfev)
    total = time.process_time() - begin
    return torch.tensor(values).to(start), evaluations / num, 1e3 * total / num, 1 - inside / total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--scipy", type=int, default=50, help="how many of them SciPy solves")
    parser.add_argument("--history", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    torch.manual_seed(arguments.seed)
    num, num_scipy = arguments.problems, min(arguments.scipy, arguments.problems)
    families = {
        "box QP, n=100": quadratics(num),
        "attack, sigmoid, c=0.1": attacks(num, torch.sigmoid, 0.1),
        "attack, sigmoid, c=0.01": attacks(num, torch.sigmoid, 0.01),
        "attack, ReLU, c=0.1": attacks(num, torch.relu, 0.1),
    }
    print(f"{'problem':<26}{'solver':<14}{'gap':>10}{'evaluations':>13}{'ms/problem':>12}{'own':>6}")
    for name, family in families.items():
        batched(family, 3)
        rows = {f"batched m={m}": batched(family, m) for m in arguments.history}
        rows |= {f"SciPy m={max(arguments.history)}": scipy(family, max(arguments.history), num_scipy)}
        best = torch.stack([values[:num_scipy] for values, *_ in rows.values()]).amin(0)
        for solver, (values, evaluations, milliseconds, own) in rows.items():
            gap = (values[:num_scipy] - best).mean().item()
            print(f"{name:<26}{solver:<14}{gap:>10.1e}{evaluations:>13.1f}{milliseconds:>12.2f}{own:>6.0%}", flush=True)


if __name__ == "__main__":
    main()
