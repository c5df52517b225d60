"""The three passes over a shard of an image set: moments, top images, and the features of chosen images."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from advlab.analysis.directions import Moments
from advlab.analysis.features import Features, Top, stimulation, thumbnails
from advlab.data import Dataset, ImageFolder
from advlab.engine.shared_dataset import SharedDataset
from advlab.engine.worker import Resources
from advlab.errors import UserError
from advlab.store import Store
from advlab.store.schema import image_column

MAX_DIMENSION = 8192
"""Largest number of features per position: moments of more would not fit an actor."""


@dataclass(frozen=True, slots=True)
class ShardUnit:
    """One pass over one shard.

    Attributes:
        name: file to write, with the content address ``key``.
        start: row of the first image.
        rows: rows of the shard to process, or None for all.
    """

    store: str
    name: str
    key: str
    start: int
    layer: str
    top: int
    predicted: bool
    rows: tuple[int, ...] | None = None

    @property
    def kind(self) -> str:
        return self.name.partition("/")[0]

    def run(self, resources: Resources) -> None:
        given = resources.input
        dataset: Dataset = given if isinstance(given, ImageFolder) else given.dataset()
        if self.rows is not None:
            dataset = dataset.subset(torch.tensor(self.rows))
        features = Features(resources.get("model"), self.layer, resources.device)
        make = {"moments": self._moments, "top": self._top, "chosen": self._chosen}[self.kind]
        Store(self.store).write_table(self.name, make(features, dataset, resources), self.key)

    def _moments(self, features: Features, dataset: Dataset, _resources: Resources) -> pa.Table:
        parts: list[Moments] = []
        for values, _logits in features.batches(dataset.images):
            if values.shape[1] > MAX_DIMENSION:
                raise UserError(f"the layer has {values.shape[1]} features, more than {MAX_DIMENSION}; choose another.")
            parts.append(Moments.of(values.transpose(1, 2).flatten(0, 1).cpu().numpy()))
        moments = reduce(Moments.__add__, parts)
        products = pa.FixedSizeListArray.from_arrays(pa.array(moments.products.ravel()), len(moments.total))
        columns = {"total": moments.total, "low": moments.low, "high": moments.high, "products": products}
        return pa.table({"count": np.full(len(moments.total), moments.count), **columns})  # one row per feature

    def _top(self, features: Features, dataset: Dataset, resources: Resources) -> pa.Table:
        vectors = torch.tensor(resources.get("directions")).to(resources.device)
        tops: list[Top] = []
        done = 0
        for values, _logits in features.batches(dataset.images):
            scores = stimulation(values, vectors).cpu().numpy()
            rows = np.arange(self.start + done, self.start + done + len(scores))
            tops.append(Top.of(scores, rows, self.top))
            done += len(scores)
        best = reduce(Top.merge, tops)
        return pa.table({"row": best.index.ravel(), "score": best.score.ravel()})

    def _chosen(self, features: Features, dataset: Dataset, _resources: Resources) -> pa.Table:
        images = dataset.images
        described, answers = [], []
        for values, logits in features.batches(images):
            described.append(values.amax(2).cpu().numpy())
            answers.append(logits.argmax(1).cpu().numpy())
        labels = np.concatenate(answers) if self.predicted else dataset.labels.numpy()
        assert self.rows is not None
        return pa.table(
            {
                "row": np.array(self.rows) + self.start,
                "index": dataset.index.numpy(),
                "label": labels,
                "feature": image_column(np.concatenate(described)),
                "thumbnail": image_column(thumbnails(images).numpy()),
            }
        )


def packed(dataset: Dataset) -> Any:
    """A shard in the form in which it is sent: undecoded files of a folder, otherwise arrays."""
    return dataset if isinstance(dataset, ImageFolder) else SharedDataset.of(dataset)


def moments_from_arrow(table: pa.Table) -> Moments:
    """The moments that the first pass wrote for a shard."""
    products = table["products"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    total, low, high = (table[name].to_numpy() for name in ("total", "low", "high"))
    return Moments(int(table["count"][0].as_py()), total, products, low, high)
