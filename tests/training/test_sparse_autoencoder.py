"""Features learned without labels, then a softmax that leaves them alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from advlab.data import Dataset
from advlab.models import error_rate
from advlab.models.autoencoder import AutoencoderClassifier
from advlab.training import sparse_autoencoder

CPU = torch.device("cpu")


def fit(dataset: Dataset, **arguments: Any) -> tuple[AutoencoderClassifier, dict[str, Any]]:
    network = AutoencoderClassifier(784, 30, 10)
    settings: dict[str, Any] = {"seed": 0, "device": CPU, "epochs": 4, "batch_size": 50, "max_iterations": 60}
    return network, sparse_autoencoder.fit(network, dataset, **settings | arguments)


def test_reconstruction_falls_and_the_code_classifies(few: Dataset) -> None:
    told: list[dict[str, float]] = []
    network, report = fit(few, epochs=8, progress=lambda _step, values: told.append(values))
    losses, fitted = [values["loss"] for values in told[:8]], [values["loss"] for values in told[8:]]
    assert losses[-1] < 0.7 * losses[0]
    assert report["autoencoder_loss"] == losses[-1]
    assert len(fitted) == report["iterations"] > 0
    assert fitted == sorted(fitted, reverse=True)
    assert error_rate(network, few.images, few.labels) < 0.25
    assert not network.training


def test_softmax_does_not_touch_the_encoder(few: Dataset) -> None:
    barely, _ = fit(few, max_iterations=1)
    fully, _ = fit(few, max_iterations=60)
    for name in ("encoder", "decoder"):
        for before, after in zip(getattr(barely, name).parameters(), getattr(fully, name).parameters(), strict=True):
            assert torch.equal(before, after)
    assert not torch.equal(barely.classifier.weight, fully.classifier.weight)


def test_features_do_not_know_labels(few: Dataset) -> None:
    shuffled = replace(few, labels=few.labels.flip(0))
    first, second = fit(few)[0], fit(shuffled)[0]
    assert torch.equal(first.encoder.weight, second.encoder.weight)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


def test_sparsity_is_what_was_asked_for(few: Dataset) -> None:
    for sparsity in (0.1, 0.2):
        network, report = fit(few, epochs=8, sparsity=sparsity, sparsity_weight=300.0, learning_rate=1e-2)
        assert report["mean_activation"] == pytest.approx(sparsity, rel=0.15)
        with torch.no_grad():
            assert report["mean_activation"] == pytest.approx(network.encode(few.images).mean().item(), rel=1e-5)


def test_seeds_reproduce_to_the_bit(few: Dataset) -> None:
    first, second, other = fit(few)[0], fit(few)[0], fit(few, seed=1)[0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.encoder.weight, other.encoder.weight)
