"""AUC and balanced accuracy against their definitions, and a regression against its optimum."""

from __future__ import annotations

import pytest
import torch

from advlab.analysis import linear_probe


def test_auc_is_the_share_of_pairs_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    positive = torch.rand(200, generator=generator) < 0.3
    score = (torch.randn(200, generator=generator) + positive).round(decimals=1)  # with ties
    found = linear_probe.detection(score, positive)
    difference = score[positive][:, None] - score[~positive]
    assert found.auc == pytest.approx(float(((difference > 0).double() + 0.5 * (difference == 0)).mean()))
    assert found.auc_low < found.auc < found.auc_high
    right = ((score > 0) == positive).double()
    assert found.balanced_accuracy == pytest.approx(float((right[positive].mean() + right[~positive].mean()) / 2))
    assert (found.positives, found.negatives) == (int(positive.sum()), int((~positive).sum()))


def test_the_interval_covers() -> None:
    """Of 300 samples of known AUC some 95% must have it in their interval."""
    generator = torch.Generator().manual_seed(1)
    truth = float(torch.special.ndtr(torch.tensor(1 / 2**0.5)))
    positive = torch.arange(150) < 50
    hits = 0
    for _ in range(300):
        found = linear_probe.detection(torch.randn(150, generator=generator) + positive, positive)
        hits += found.auc_low <= truth <= found.auc_high
    assert 0.91 < hits / 300 < 0.98


def test_the_regression_is_at_its_optimum() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(400, 5, generator=generator) * torch.tensor([1, 10, 0.1, 3, 1]) + 2
    positive = features[:, 0] + torch.randn(400, generator=generator) > 3
    weight, bias = linear_probe.fit(features, positive, decay=1e-2)
    deviation = features.double().std(0)
    scaled = (weight.double() * deviation).requires_grad_()
    shift = bias.double().requires_grad_()
    score = (features.double() - 0) / deviation @ scaled + shift
    share = positive.double().mean()
    balance = torch.where(positive, 0.5 / share, 0.5 / (1 - share))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(score, positive.double(), balance)
    gradient = torch.autograd.grad(loss + 0.005 * scaled.square().sum(), (scaled, shift))
    assert max(float(part.abs().max()) for part in gradient) < 1e-4
    assert linear_probe.detection(features @ weight + bias, positive).auc > 0.7
