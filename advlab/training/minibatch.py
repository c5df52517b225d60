"""Minibatch training, for networks with dropout and for those too large for a full batch."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from advlab.data import Dataset
from advlab.models.mlp import initialise
from advlab.training.decay import Convention, WeightDecay
from advlab.training.full_batch import Progress


def fit(
    network: nn.Module,
    dataset: Dataset,
    *,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
    weight_decay: float | Sequence[float] = 0.0,
    decay_convention: Convention = "half",
    initial_weights: str = "kaiming",
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    cost: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """Minimise mean cross entropy + weight decay by Adam with a one-cycle learning rate, in place.

    Arguments are those of ``full_batch.fit``; ``learning_rate`` is the peak of the cycle (Smith & Topin 2018); ``cost``
    of a batch (images, labels) replaces the cross entropy. Returns ``loss`` (mean over the last epoch), ``iterations``
    (steps), ``seconds``, ``stop``.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    initialise(network, initial_weights, generator)
    network.to(device)
    decay = WeightDecay(network, weight_decay, decay_convention)

    def total(images: Tensor, labels: Tensor) -> Tensor:
        data = functional.cross_entropy(network(images), labels) if cost is None else cost(images, labels)
        return data + decay()

    started = time.perf_counter()
    network.train()
    parameters = list(network.parameters())
    loss = train(parameters, total, dataset, epochs, batch_size, learning_rate, generator, device, progress)
    network.eval()
    seconds, steps = time.perf_counter() - started, epochs * -(-len(dataset) // batch_size)
    return {"loss": loss, "iterations": steps, "seconds": seconds, "stop": f"{epochs} epochs"}


def train(
    parameters: list[nn.Parameter],
    loss: Callable[[Tensor, Tensor], Tensor],
    dataset: Dataset,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    device: torch.device,
    progress: Progress | None = None,
) -> float:
    """Minimise ``loss(images, labels)`` by Adam over batches of every epoch in its own order, the learning rate running
    through one cycle. Returns the mean loss of the last epoch.
    """
    steps = -(-len(dataset) // batch_size)
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * steps)
    mean = float("nan")
    for epoch in range(1, epochs + 1):
        total = torch.zeros((), device=device)
        for rows in torch.randperm(len(dataset), generator=generator).split(batch_size):
            optimiser.zero_grad(set_to_none=True)
            batch = dataset.images[rows], dataset.labels[rows]
            value = loss(*(part.to(device, non_blocking=True) for part in batch))
            value.backward()
            optimiser.step()
            schedule.step()
            total += value.detach()
        mean = float(total) / steps
        if progress is not None:
            progress(epoch * steps, {"loss": mean})
    return mean
