"""CIFAR-10 is the real one, from whichever layout it comes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from advlab import data
from advlab.data import catalogue, cifar
from advlab.data.sources import RawFile, SourceError
from advlab.errors import UserError

CIFAR = catalogue.find("cifar10")


def archive(batches: dict[str, np.ndarray]) -> bytes:
    """A tar.gz of the binary layout."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name, rows in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = rows.nbytes
            tar.addfile(member, io.BytesIO(rows.tobytes()))
    return packed.getvalue()


@pytest.fixture(scope="module")
def batches() -> dict[str, np.ndarray]:
    """The whole data set in the published binary layout."""
    names = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    made = {}
    for split, parts in names.items():
        loaded = data.load("cifar10", split)
        pixels = (loaded.images * 255).round().byte().flatten(1)
        rows = torch.cat([loaded.labels.byte()[:, None], pixels], 1).numpy()
        made |= dict(zip(parts, np.split(rows, len(parts)), strict=True))
    return made


def test_cifar10_is_cifar10() -> None:
    train, test = data.load("cifar10"), data.load("cifar10", "test")
    assert train.images.shape == (50_000, 3, 32, 32)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert train.class_names[1] == "automobile"
    torch.testing.assert_close(train.images.mean((0, 2, 3)), torch.tensor([0.4914, 0.4822, 0.4465]), atol=5e-5, rtol=0)


def test_splits_follow_mnists() -> None:
    sizes = {split: len(data.load("cifar10", split)) for split in ("fit", "validation", "p1", "p2")}
    assert sizes == {"fit": 40_000, "validation": 10_000, "p1": 25_000, "p2": 25_000}


def test_the_published_archive_gives_the_pinned_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batches: dict[str, np.ndarray],
) -> None:
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(archive(batches))
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "cifar-10-python.tar.gz").as_uri())
    monkeypatch.setenv("PATH", "")
    loaded = data.load("cifar10", "test", root=tmp_path / "fetched")
    assert loaded.fingerprint == data.load("cifar10", "test").fingerprint
    assert {path.name for path in (tmp_path / "fetched/cifar10").iterdir()} == {file.name for file in CIFAR.files}


def cut_short(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def other(whole: bytes) -> bytes:
    return b"<html>log in first</html>" + whole[:0]


@pytest.mark.parametrize("damage", [cut_short, other])
def test_a_damaged_archive_is_no_source(
    tmp_path: Path, batches: dict[str, np.ndarray], damage: Callable[[bytes], bytes]
) -> None:
    few = {name: rows[:2] for name, rows in batches.items()}
    (tmp_path / "few.tar.gz").write_bytes(damage(archive(few)))
    with pytest.raises(SourceError):
        list(cifar.BinaryArchive((tmp_path / "few.tar.gz").as_uri()).read(CIFAR.files))


def test_an_archive_without_a_batch_names_it(tmp_path: Path, batches: dict[str, np.ndarray]) -> None:
    few = {name: rows[:2] for name, rows in batches.items() if name != "data_batch_4"}
    (tmp_path / "few.tar.gz").write_bytes(archive(few))
    with pytest.raises(SourceError, match=r"data_batch_4\.bin not found"):
        list(cifar.BinaryArchive((tmp_path / "few.tar.gz").as_uri()).read(CIFAR.files))


def test_other_images_are_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: dict[str, np.ndarray]
) -> None:
    few = {name: rows[:2] for name, rows in batches.items()}
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(archive(few))
    monkeypatch.setattr(datasets.CIFAR10, "url", (tmp_path / "cifar-10-python.tar.gz").as_uri())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="train-images-idx4-ubyte has another SHA-256"):
        data.load("cifar10", root=tmp_path / "fetched")


def test_idx_of_images_in_bytes() -> None:
    images, labels = np.arange(2 * 3072, dtype=np.uint32).astype(np.uint8).reshape(2, 3, 32, 32), np.array([3, 9])
    file = RawFile("train-images-idx4-ubyte", 0, "")
    [(_, content)] = cifar._as_idx([file], {"train": [(images, labels.astype(np.uint8))]})
    assert content[:4] == b"\0\0\x08\x04"
    assert np.array_equal(data.idx.parse(np.frombuffer(content, np.uint8)), images)
