"""A data set in the form in which it is sent to actors."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from advlab.data import Dataset


@dataclass(frozen=True, slots=True)
class SharedDataset:
    """A data set as arrays: actors read arrays in place in the object store, tensors would be unpickled."""

    name: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Wrap a data set without copying it."""
        images, labels, index = (tensor.numpy() for tensor in (dataset.images, dataset.labels, dataset.index))
        return cls(dataset.name, dataset.split, images, labels, index, dataset.class_names)

    def dataset(self) -> Dataset:
        """A copy: arrays in the object store are read-only, which PyTorch cannot know."""
        images, labels, index = (torch.tensor(array) for array in (self.images, self.labels, self.index))
        return Dataset(self.name, self.split, images, labels, index, self.class_names)
