"""The data sets are the real ones, and a data set knows itself by its fingerprint."""

from __future__ import annotations

import pickle

import pytest
import torch

from advlab import data
from advlab.errors import UserError

TEST_FINGERPRINT = "046594ff8a2340b015bf6955f999bcd6445cf1a1a06728fae0fe95578473bc8e"


def test_mnist_is_mnist(mnist_train: data.Dataset, mnist_test: data.Dataset) -> None:
    assert mnist_train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    histogram = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist_train.labels.bincount().tolist() == histogram
    assert mnist_test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist_train.images.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert mnist_train.images.std().item() == pytest.approx(0.3081, abs=5e-5)


def test_fashion_mnist_is_fashion_mnist() -> None:
    train = data.load("fashion_mnist", split="train")
    assert train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert train.labels.bincount().tolist() == [6000] * 10
    assert data.load("fashion_mnist", split="test").labels.bincount().tolist() == [1000] * 10
    assert train.images.mean().item() == pytest.approx(0.2860, abs=5e-5)
    assert train.images.std().item() == pytest.approx(0.3530, abs=5e-5)
    assert train.class_names[9] == "Ankle boot"


@pytest.mark.parametrize(("split", "size"), [("train", 60_000), ("test", 10_000)])
def test_fields(request: pytest.FixtureRequest, split: str, size: int) -> None:
    dataset: data.Dataset = request.getfixturevalue(f"mnist_{split}")
    assert dataset.images.shape == (size, 1, 28, 28)
    assert dataset.images.dtype == torch.float32
    assert dataset.images.aminmax() == (0.0, 1.0)
    assert dataset.labels.dtype == dataset.index.dtype == torch.int64
    assert torch.equal(dataset.index, torch.arange(size))
    assert len(dataset) == size
    assert (dataset.name, dataset.split, dataset.num_classes) == ("mnist", split, 10)


def test_intensities_are_whole_bytes(mnist_test: data.Dataset) -> None:
    assert torch.equal((mnist_test.images * 255).round() / 255, mnist_test.images)


def test_subset_keeps_positions(mnist_test: data.Dataset) -> None:
    rows = torch.tensor([7, 3, 3])
    chosen = mnist_test.subset(slice(100, 200)).subset(rows)
    assert chosen.index.tolist() == [107, 103, 103]
    assert torch.equal(chosen.images, mnist_test.images[chosen.index])
    assert torch.equal(chosen.labels, mnist_test.labels[chosen.index])
    assert (chosen.name, chosen.split) == ("mnist", "test")
    assert len(mnist_test.subset(slice(0, 0))) == 0


def test_fingerprint_is_stable(mnist_test: data.Dataset) -> None:
    again = data.load("mnist", split="test")
    assert again is not mnist_test
    assert again.fingerprint == mnist_test.fingerprint == TEST_FINGERPRINT
    assert pickle.loads(pickle.dumps(again)).fingerprint == TEST_FINGERPRINT


def test_fingerprint_sees_images_labels_index_and_order(mnist_test: data.Dataset) -> None:
    base = mnist_test.subset(slice(0, 10))
    images = base.images.clone()
    images[3, 0, 14, 14] += 1 / 255
    others = [
        data.Dataset(base.name, base.split, images, base.labels, base.index, base.class_names),
        data.Dataset(base.name, base.split, base.images, base.labels.flip(0), base.index, base.class_names),
        data.Dataset(base.name, base.split, base.images, base.labels, base.index + 1, base.class_names),
        base.subset(torch.arange(9, -1, -1)),
        base.subset(slice(0, 9)),
        base.subset(slice(0, 0)),
    ]
    assert len({dataset.fingerprint for dataset in [base, *others]}) == len(others) + 1


def test_inconsistent_tensors_are_refused(mnist_test: data.Dataset) -> None:
    images, labels, index = mnist_test.images[:4], mnist_test.labels[:4], mnist_test.index[:4]
    names = mnist_test.class_names
    with pytest.raises(ValueError, match="images must be"):
        data.Dataset("mnist", "test", images.double(), labels, index, names)
    with pytest.raises(ValueError, match="labels must be"):
        data.Dataset("mnist", "test", images, labels[:3], index, names)
    with pytest.raises(ValueError, match="index must be"):
        data.Dataset("mnist", "test", images, labels, index.int(), names)


def test_unknown_name_names_the_choices() -> None:
    with pytest.raises(UserError, match="'minst': choose one of mnist, fashion_mnist"):
        data.load("minst")
