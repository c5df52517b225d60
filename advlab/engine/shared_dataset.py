"""Data sets on their way to the actors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from advlab.data import Dataset


@dataclass(frozen=True, slots=True)
class SharedDataset:
    """A data set on its way through the object store: arrays are read there in place, tensors would be unpickled."""

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> SharedDataset:
        """A data set, without copying it."""
        images, labels, index = (tensor.numpy() for tensor in (dataset.images, dataset.labels, dataset.index))
        return cls(dataset.name, dataset.split, images, labels, index, dataset.class_names)

    def dataset(self) -> Dataset:
        """A copy: what lies in the object store is read-only, and PyTorch cannot know."""
        images, labels, index = (torch.tensor(array) for array in (self.images, self.labels, self.index))
        return Dataset(self.name, self.split, images, labels, index, self.class_names)
