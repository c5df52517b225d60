"""The source side: attack a slice, measure what came out. And the target side: show it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advlab.attacks import registry
from advlab.attacks.szegedy import szegedy_lbfgs
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models.mlp import MLP
from advlab.training import full_batch
from advlab.transfer.evaluate import answer
from advlab.transfer.generate import Examples, attack_dataset, distortion, require_target

CPU = torch.device("cpu")
LBFGS = registry.resolve("lbfgs")


@pytest.fixture(scope="module")
def model(mnist_train: Dataset) -> nn.Module:
    network = MLP([784, 10])
    full_batch.fit(network, mnist_train.subset(slice(1000)), seed=0, device=CPU, weight_decay=0.1, max_iterations=40)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def clean(model: nn.Module, mnist_test: Dataset) -> Dataset:
    """Six images that the model classifies correctly."""
    rows = (model(mnist_test.images[:50]).argmax(1) == mnist_test.labels[:50]).nonzero().squeeze(1)
    return mnist_test.subset(rows[:6])


@pytest.fixture(scope="module")
def random_targets(model: nn.Module, clean: Dataset) -> Examples:
    return attack_dataset(model, clean, LBFGS, "random", seed=0, device=CPU)


def test_columns_agree_with_the_images(model: nn.Module, clean: Dataset, random_targets: Examples) -> None:
    found = random_targets
    difference = found.images.astype(np.float64) - clean.images.numpy()
    assert found.images.shape == clean.images.shape
    assert np.array_equal(found.index, clean.index.numpy())
    assert np.array_equal(found.label, clean.labels.numpy())
    np.testing.assert_allclose(found.rms, np.sqrt(np.square(difference).mean((1, 2, 3))), rtol=1e-12)
    np.testing.assert_allclose(found.l2, np.sqrt(np.square(difference).sum((1, 2, 3))), rtol=1e-12)
    assert np.array_equal(found.linf, np.abs(difference).max((1, 2, 3)))
    assert found.success.all()
    assert np.array_equal(model(torch.from_numpy(found.images)).argmax(1).numpy(), found.target)
    for name, kind in (("rms", np.float64), ("images", np.float32), ("evaluations", np.int64), ("target", np.int64)):
        assert getattr(found, name).dtype == kind


def test_examples_do_not_depend_on_the_slice(model: nn.Module, clean: Dataset, random_targets: Examples) -> None:
    part = attack_dataset(model, clean.subset(slice(2, 5)), LBFGS, "random", seed=0, device=CPU)
    assert np.array_equal(part.target, random_targets.target[2:5])
    np.testing.assert_allclose(part.rms, random_targets.rms[2:5], rtol=1e-3)


def test_all_attacks_every_wrong_class_of_every_image(model: nn.Module, clean: Dataset) -> None:
    two = clean.subset(slice(2))
    found = attack_dataset(model, two, LBFGS, "all", seed=0, device=CPU)
    assert len(found.index) == 18
    for row, (index, label) in enumerate(zip(two.index.tolist(), two.labels.tolist(), strict=True)):
        rows = slice(9 * row, 9 * row + 9)
        assert (found.index[rows] == index).all()
        assert (found.label[rows] == label).all()
        assert sorted(found.target[rows].tolist()) == [k for k in range(10) if k != label]
    assert found.success.all()
    difference = found.images - two.images.numpy().repeat(9, 0)
    np.testing.assert_allclose(found.rms, np.sqrt(np.square(difference).mean((1, 2, 3))), rtol=1e-5)


def test_one_class_for_all(model: nn.Module, clean: Dataset) -> None:
    label = int(clean.labels[0])
    found = attack_dataset(model, clean, LBFGS, str(label), seed=0, device=CPU)
    assert (found.target == label).all()
    assert found.success.all()
    others = clean.labels != label  # an image of that class has nowhere to go
    assert np.array_equal(found.index, clean.index[others].numpy())
    assert (found.label != label).all()


def test_nearest_survives_rounding_only_if_still_misclassified(model: nn.Module, clean: Dataset) -> None:
    found = attack_dataset(model, clean, LBFGS, "nearest", seed=0, device=CPU)
    rounded = torch.from_numpy(np.rint(found.images * 255) / 255).float()
    assert np.array_equal(found.survives_uint8, model(rounded).argmax(1).numpy() != found.label)
    literal = attack_dataset(
        model, clean, functools.partial(szegedy_lbfgs, paper_literal=True), "random", seed=0, device=CPU
    )
    assert literal.survives_uint8.all()  # far beyond the boundary


def test_failed_examples_survive_nothing(clean: Dataset) -> None:
    """A model that rounding alone turns round: what fails cannot be *still* successful."""

    def on_the_grid(images: Tensor) -> Tensor:
        flat = images.flatten(1) * 255
        whole = ((flat - flat.detach().round()).abs() < 1e-3).all(1)
        wrong = nn.functional.one_hot((clean.labels + 1) % 10, 10).float()
        right = nn.functional.one_hot(clean.labels, 10).float()
        return torch.where(whole[:, None], wrong, right) + 0 * flat[:, :10]

    def give_up(_model: object, images: Tensor, labels: Tensor, *_: object, **__: object) -> object:
        found = LBFGS(lambda x: 0 * x.flatten(1)[:, :10], images, labels, (labels + 1) % 10, (0, 1), seed=0, index=None)
        found.images.add_(0.3 / 255).clamp_(0, 1)
        return found

    failed = attack_dataset(on_the_grid, clean, give_up, "random", seed=0, device=CPU)  # type: ignore[arg-type]
    assert not failed.success.any()
    assert not failed.survives_uint8.any()


@pytest.mark.parametrize("target", ["10", "-1", "1.5", "closest", "", "³"])
def test_unknown_targets_are_refused(target: str) -> None:
    with pytest.raises(UserError, match=f"unknown target '{target}'; choose one of random, nearest"):
        require_target(target, 10)


def test_distortion_of_nothing_is_zero() -> None:
    images = np.random.default_rng(0).random((3, 1, 4, 4), np.float32)
    assert all((values == 0).all() for values in distortion(images, images).values())
    assert all(len(values) == 0 for values in distortion(images[:0], images[:0]).values())


def test_answers_do_not_depend_on_batches(model: nn.Module, mnist_test: Dataset) -> None:
    images, labels = mnist_test.images[:300].numpy(), mnist_test.labels[:300].numpy()
    whole = answer(model, images, labels, device=CPU)
    parts = answer(model, images, labels, device=CPU, batch_size=7)
    logits = model(mnist_test.images[:300])
    assert np.array_equal(whole.prediction, logits.argmax(1).numpy())
    assert np.array_equal(parts.prediction, whole.prediction)
    np.testing.assert_allclose(parts.margin, whole.margin, atol=1e-4)
    assert whole.margin.dtype == np.float32
    right = whole.prediction == labels
    assert (whole.margin[right] >= 0).all()
    assert (whole.margin[~right] <= 0).all()
    row = int(np.flatnonzero(~right)[0])
    others = logits[row].clone()
    others[labels[row]] = -torch.inf
    assert whole.margin[row] == pytest.approx(float(logits[row, labels[row]] - others.max()), abs=1e-5)
