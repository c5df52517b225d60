"""Labelled images with their positions in the file they come from."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set, or a subset of one, held in memory.

    Attributes:
        images: [N, C, H, W] float32, pixel intensity in [0, 1].
        labels: [N] int64, classes.
        index: [N] int64, positions in the underlying file (train or test).
    """

    name: str
    split: str
    images: Tensor
    labels: Tensor
    index: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.float32:
            raise ValueError(f"images must be [N, C, H, W] float32, not {list(self.images.shape)} {self.images.dtype}")
        for field, values in (("labels", self.labels), ("index", self.index)):
            if values.shape != self.images.shape[:1] or values.dtype != torch.int64:
                raise ValueError(f"{field} must be [{len(self.images)}] int64, not {list(values.shape)} {values.dtype}")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, split={self.split!r}, images={list(self.images.shape)})"

    @property
    def num_classes(self) -> int:
        """Number of classes of the data set, of which not all need to occur here."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, over the image shape and the bytes of images, labels and index."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels, self.index):
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device) -> Self:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), index=self.index.to(device))

    def subset(self, rows: Tensor | slice) -> Self:
        """The examples at ``rows`` (LongTensor [n], which copies; or a slice, which shares memory), in that order."""
        return replace(self, images=self.images[rows], labels=self.labels[rows], index=self.index[rows])
