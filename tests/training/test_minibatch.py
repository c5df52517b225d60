"""Minibatch training fits, covers its data, and repeats itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from advlab.data import Dataset
from advlab.models import error_rate
from advlab.models.convnet import ConvNet
from advlab.models.mlp import MLP
from advlab.training import minibatch

CPU = torch.device("cpu")


def test_fits_and_reports(few: Dataset) -> None:
    network = MLP([784, 64, 10], "relu")
    told: list[tuple[int, float]] = []
    report = minibatch.fit(
        network,
        few,
        seed=0,
        device=CPU,
        epochs=12,
        batch_size=64,
        learning_rate=5e-3,
        progress=lambda step, values: told.append((step, values["loss"])),
    )
    assert error_rate(network, few.images, few.labels) < 0.02
    assert report["iterations"] == 12 * 7  # 400 images make six full batches and a short one
    assert [step for step, _ in told] == list(range(7, 85, 7))
    assert report["loss"] == told[-1][1] < 0.2 * told[0][1]
    assert not network.training


def test_dropout_repeats_itself_to_the_bit(few: Dataset) -> None:
    def fit(seed: int) -> list[torch.Tensor]:
        network = ConvNet(filters=4, hidden=16)
        minibatch.fit(network, few, seed=seed, device=CPU, epochs=1, batch_size=100)
        return [p.detach() for p in network.parameters()]

    torch.manual_seed(123)
    first = fit(0)
    torch.manual_seed(321)
    assert all(torch.equal(a, b) for a, b in zip(first, fit(0), strict=True))
    assert not torch.equal(first[0], fit(1)[0])


def test_batches_cover_every_epoch_in_an_order_of_its_own() -> None:
    number, batches = torch.arange(10), []
    ten = Dataset("ten", "train", number.float().view(-1, 1, 1, 1), number, number, ("class",) * 10)
    weight = torch.nn.Parameter(torch.zeros(1))

    def loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        batches.append((images, labels))
        return weight.sum()

    minibatch.train([weight], loss, ten, 3, 4, 1e-2, torch.Generator().manual_seed(0), CPU)
    assert [len(y) for _, y in batches] == [4, 4, 2] * 3
    epochs = [torch.cat([y for _, y in batches[i : i + 3]]).tolist() for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(torch.equal(x.flatten().long(), y) for x, y in batches)


def test_any_loss_will_do(few: Dataset) -> None:
    network = MLP([784, 10])
    mean = minibatch.train(
        list(network.parameters()),
        lambda images, labels: functional.cross_entropy(network(images), labels),
        few,
        epochs=4,
        batch_size=50,
        learning_rate=1e-2,
        generator=torch.Generator().manual_seed(0),
        device=CPU,
    )
    assert 0 < mean < 1
    assert error_rate(network, few.images, few.labels) < 0.1


def test_decay_shrinks_weights(few: Dataset) -> None:
    def size(weight_decay: float) -> float:
        network = MLP([784, 10])
        minibatch.fit(network, few, seed=0, device=CPU, epochs=5, learning_rate=1e-2, weight_decay=weight_decay)
        return float(network[1].weight.detach().square().sum())  # type: ignore[operator]

    assert size(0.5) < 0.5 * size(0.0)


def test_one_step_is_enough_to_run(few: Dataset) -> None:
    report = minibatch.fit(MLP([784, 10]), few, seed=0, device=CPU, epochs=1, batch_size=1000)
    assert report["iterations"] == 1
    assert report["loss"] == pytest.approx(2.3, abs=0.5)
