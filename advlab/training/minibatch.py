"""Minibatch training, for networks with dropout and for those too large for a full batch."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    penalty: Callable[[], Tensor] | None = None,
    cost: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Any]:
    """Minimise mean cross entropy + weight decay by Adam with a one-cycle learning rate, in place.

    Arguments are those of ``full_batch.fit``; ``learning_rate`` is the peak of the cycle (Smith & Topin 2018),
    ``penalty`` an additional cost at every step; ``cost`` of a batch (images, labels) replaces the cross entropy.
    Returns ``loss`` (mean over the last epoch), ``iterations`` (steps), ``seconds``, ``stop``.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    initialise(network, initial_weights, generator)
    network.to(device)
    decay = WeightDecay(network, weight_decay, decay_convention)

    def total(images: Tensor, labels: Tensor) -> Tensor:
        data = functional.cross_entropy(network(images), labels) if cost is None else cost(images, labels)
        value = data + decay()
        return value if penalty is None else value + penalty()

    steps_per_epoch = -(-len(dataset) // batch_size)
    started = time.perf_counter()
    network.train()
    parameters = list(network.parameters())
    batches = shuffled_batches(dataset.images, dataset.labels, batch_size, epochs, generator)
    loss = train(parameters, total, batches, epochs, steps_per_epoch, learning_rate, device, progress)
    network.eval()
    seconds = time.perf_counter() - started
    return {"loss": loss, "iterations": epochs * steps_per_epoch, "seconds": seconds, "stop": f"{epochs} epochs"}


def shuffled_batches(
    images: Tensor, labels: Tensor, batch_size: int, epochs: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (images [b, ...], labels [b]) of every epoch in turn, each epoch in its own order."""
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(batch_size):
            yield images[rows], labels[rows]


def train(
    parameters: list[nn.Parameter],
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    epochs: int,
    steps_per_epoch: int,
    learning_rate: float,
    device: torch.device,
    progress: Progress | None = None,
) -> float:
    """Minimise ``loss(images, labels)`` by Adam over any stream of batches, the learning rate running through one
    cycle. Returns the mean loss of the last whole epoch.
    """
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * steps_per_epoch)
    total = torch.zeros((), device=device)
    mean = float("nan")
    for step, (images, labels) in enumerate(batches, start=1):
        optimiser.zero_grad(set_to_none=True)
        value = loss(images.to(device, non_blocking=True), labels.to(device, non_blocking=True))
        value.backward()
        optimiser.step()
        schedule.step()
        total += value.detach()
        if step % steps_per_epoch == 0:
            mean = float(total) / steps_per_epoch
            total.zero_()
            if progress is not None:
                progress(step, {"loss": mean})
    return mean
