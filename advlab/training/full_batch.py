"""Full-batch L-BFGS to convergence, as the paper trains every MNIST model (section 4.2)."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor, nn
from torch.nn import functional

from advlab.data import Dataset
from advlab.models.mlp import initialise
from advlab.training.decay import Convention, WeightDecay

Progress = Callable[[int, dict[str, float]], None]
"""Called as ``progress(step, {"loss": …})`` while a model trains."""


def fit(
    network: nn.Module,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
    weight_decay: float | Sequence[float] = 0.0,
    decay_convention: Convention = "half",
    initial_weights: str = "glorot",
    gradient_tolerance: float = 1e-5,
    loss_tolerance: float = 1e-7,
    max_iterations: int = 5000,
) -> dict[str, Any]:
    """Minimise mean cross entropy + weight decay over the whole data set, in place.

    Args:
        network: images [B, ...] → logits [B, k]; must be deterministic (no dropout).
        progress: called with the loss after each iteration.
        weight_decay: λ per layer, or one for all.
        initial_weights: a scheme of ``advlab.models.mlp.initialise``, drawn by ``seed``.
        gradient_tolerance: stop when the largest component of the gradient is below this.
        loss_tolerance: stop when an iteration lowers the loss by less than this share of it.
        max_iterations: a safety cap; normally a tolerance stops the iteration first.

    Returns:
        ``loss``, ``gradient_norm`` (largest component), ``iterations``, ``evaluations``, ``seconds``, ``stop``.
    """
    initialise(network, initial_weights, torch.Generator().manual_seed(seed))
    network.to(device)
    decay = WeightDecay(network, weight_decay, decay_convention)
    images, labels = dataset.images.to(device), dataset.labels.to(device)
    limits = gradient_tolerance, loss_tolerance, max_iterations
    return minimise_cross_entropy(network, images, labels, decay, progress, *limits)


def minimise_cross_entropy(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    penalty: Callable[[], Tensor],
    progress: Progress | None,
    gradient_tolerance: float,
    loss_tolerance: float,
    max_iterations: int,
    chunk: int = 5000,
) -> dict[str, Any]:
    """Fit the trainable parameters of ``network`` to (inputs [N, ...], labels [N]) in place.

    The iteration is SciPy's L-BFGS-B on a float64 copy of the parameters on the host (a few megabytes); loss and
    gradient are computed on the network's device, ``chunk`` examples at a time, which bounds memory and keeps
    activations in cache. Returns what ``fit`` returns.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    sizes = [p.numel() for p in parameters]
    started = time.perf_counter()
    network.train()

    def loss_and_gradient(vector: np.ndarray) -> tuple[float, np.ndarray]:
        _assign(parameters, torch.from_numpy(vector).split(sizes))
        for parameter in parameters:
            parameter.grad = None
        total = penalty()
        total.backward()
        loss = total.detach().double()
        for x, y in zip(inputs.split(chunk), labels.split(chunk), strict=True):
            part = functional.cross_entropy(network(x), y, reduction="sum") / len(labels)
            part.backward()
            loss += part.detach()
        gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        return float(loss), gradient.double().cpu().numpy()

    iterations = 0

    def report(intermediate_result: OptimizeResult) -> None:
        nonlocal iterations
        iterations += 1
        if progress is not None:
            progress(iterations, {"loss": float(intermediate_result.fun)})

    start = torch.cat([p.detach().flatten() for p in parameters]).double().cpu().numpy()
    budget = {"maxiter": max_iterations, "maxfun": 10 * max_iterations}
    options = {"maxcor": 20, **budget, "gtol": gradient_tolerance, "ftol": loss_tolerance}
    result = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", callback=report, options=options)
    _assign(parameters, torch.from_numpy(result.x).split(sizes))
    network.zero_grad(set_to_none=True)
    network.eval()
    return {
        "loss": float(result.fun),
        "gradient_norm": float(np.abs(result.jac).max()),
        "iterations": int(result.nit),
        "evaluations": int(result.nfev),
        "seconds": time.perf_counter() - started,
        "stop": str(result.message),
    }


@torch.no_grad()
def _assign(parameters: list[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value.view_as(parameter))
