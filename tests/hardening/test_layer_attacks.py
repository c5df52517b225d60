"""Attacks at every level: of the size asked for, within the layer's box, and against the tail above it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from advlab.data import Dataset
from advlab.hardening import Batch, attack
from advlab.hardening.attack import Name, move
from advlab.hardening.settings import Settings
from advlab.hardening.trainer import Alternating, Trainer

LEVELS = (0, 1, 2)
SIZES = (0.2, 0.2, 0.2)


@pytest.fixture(scope="module", params=["relu", "sigmoid"])
def trained(request: pytest.FixtureRequest, thousand: Dataset, short: Settings) -> Trainer:
    """A network that reads most of its training images rightly."""
    settings = replace(short, levels=(), activation=request.param, epochs=15, learning_rate=1e-2)
    trainer = Trainer(settings, thousand, seed=0, source=Alternating())
    trainer.run(trainer.total)
    trainer.network.eval()
    return trainer


def attacked(trainer: Trainer, name: Name, sizes: tuple[float, ...] = SIZES, count: int = 40) -> dict[int, Batch]:
    settings = replace(trainer.settings, attack=name, sizes=sizes, levels=LEVELS)
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(count)
    return attack.examples(trainer.network, trainer.levels, trainer.dataset, settings, rows, 7, generator)


@pytest.mark.parametrize("name", ["one-step", "gaussian"])
def test_steps_have_the_size_asked_for(trained: Trainer, name: Name) -> None:
    found = attacked(trained, name, (0.01, 0.01, 0.01))
    clean = trained.levels.activations(trained.dataset.images[:40])
    for level, batch in found.items():
        size = 0.01 * clean[level].detach().flatten(1).norm(dim=1).mean()
        moved = (batch.values - clean[level].flatten(1)).norm(dim=1)
        assert torch.allclose(batch.l2, moved)
        assert bool((moved <= size * 1.001).all())
        assert float(moved.median()) > 0.9 * float(size)
        assert bool((batch.births == 7).all())


@torch.no_grad()
def test_a_step_hurts_more_than_noise_of_its_size(trained: Trainer) -> None:
    one, noise = attacked(trained, "one-step"), attacked(trained, "gaussian")
    for level in LEVELS:
        tail = trained.levels.tail(level)
        hurt = [
            float(functional.cross_entropy(tail(found[level].values), found[level].labels)) for found in (one, noise)
        ]
        assert hurt[0] > 1.2 * hurt[1]


@torch.no_grad()
@pytest.mark.parametrize("name", ["minimum-norm", "lbfgs"])
def test_minimal_attacks_cross_the_boundary_within_the_box(trained: Trainer, name: Name) -> None:
    found = attacked(trained, name, count=12)
    for level in LEVELS:
        batch = found[level]
        low, high = trained.levels.boxes[level]
        assert low <= float(batch.values.min()) <= float(batch.values.max()) <= high
        misclassified = trained.levels.tail(level)(batch.values).argmax(1) != batch.labels
        assert float(misclassified.float().mean()) >= 0.9


def test_no_step_is_wasted_on_the_faces_of_the_box() -> None:
    clean = torch.tensor([[0.0, 0.5, 1.0]])
    moved = move(clean, torch.tensor([[-5.0, 1.0, 1.0]]), 0.25, (0.0, 1.0))
    assert torch.equal(moved, torch.tensor([[0.0, 0.75, 1.0]]))
    assert torch.equal(move(clean, torch.zeros(1, 3), 0.25, (0.0, 1.0)), clean)


def test_points_without_a_direction_stay() -> None:
    """As where a network is so sure that its gradient underflows: a step of size 5 over no length overflows."""
    clean = torch.rand(3, 8) * 50
    towards = torch.stack([torch.zeros(8), torch.full((8,), 1e-42), torch.ones(8)])
    moved = move(clean, towards, 5.0, (0.0, torch.inf))
    assert torch.equal(moved[:2], clean[:2])
    torch.testing.assert_close((moved[2] - clean[2]).norm(), torch.tensor(5.0), rtol=1e-5, atol=0)
