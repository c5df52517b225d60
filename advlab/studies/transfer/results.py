"""The results of a transfer study: examples, predictions and the matrix, read from its files."""

import shlex
from collections.abc import Iterable
from itertools import product
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from advlab import data
from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models import external
from advlab.models.study_models import UNTRUSTED
from advlab.store import Study, schema
from advlab.store.schema import PREDICTIONS, decode_images
from advlab.studies.transfer import manifest as manifests
from advlab.studies.transfer.layout import MATRIX, Addresses, examples_folder, predictions_folder
from advlab.studies.transfer.rows import examples_from_arrow, examples_to_arrow
from advlab.transfer import controls


class TransferStudy(Study):
    """A study of kind ``transfer``; its rows are read from Parquet, and checked, on access."""

    _dataset: Dataset | None = None

    @classmethod
    def open(cls, out: str) -> Self:
        """Read an existing study; a UserError if there is none in ``out``, or one of another kind."""
        study = super().open(out)
        if study.manifest["kind"] != "transfer":
            raise UserError(
                f"{study.store.uri!r} holds a study of kind {study.manifest['kind']!r}; choose a transfer study."
            )
        return study

    def require_settings(self) -> None:
        """Raise a UserError if the study lacks settings, as no study made by a command does."""
        if lacking := manifests.lacking(self.manifest):
            raise UserError(f"the study.json of {self.store.uri!r} has no {lacking[0]}; restore its original version.")

    @classmethod
    def check(cls, manifest: dict[str, Any]) -> None:
        """Raise a ValueError that describes the first problem of an invalid manifest."""
        super().check(manifest)
        if manifest["kind"] == "transfer":
            manifests.check(manifest)

    @property
    def targets(self) -> list[str]:
        """Models every example is shown to, in display order."""
        return list(self.config["models"])

    @property
    def sources(self) -> list[str]:
        """Attacked models, then controls, in display order."""
        return [*self.targets, *controls.expand(self.config["controls"], self.targets)]

    @property
    def starts(self) -> range:
        """Rows of ``dataset`` at which shards begin."""
        return range(0, self.config["examples"], self.config["shard_size"])

    @property
    def addresses(self) -> Addresses:
        """The content addresses its shards must have; needs the data set."""
        return Addresses(self.manifest, self.fingerprints, self.dataset)

    def prediction_files(self) -> dict[tuple[str, str], dict[str, str]]:
        """By source and target, the files of its predictions with their content addresses; needs the data set."""
        addresses, pairs = self.addresses, product(self.sources, self.targets)
        return {pair: addresses.prediction_files(*pair, self.starts) for pair in pairs}

    @property
    def command(self) -> str:
        """The command line that continues the study in its folder, safe to paste into a POSIX shell."""
        return self.command_in(self.store.uri)

    def command_in(self, out: str) -> str:
        """The command line that computes the study in a folder ``out``.

        Models that are code appear in it as ``untrusted:NAME``, which runs nothing until the name is repeated with
        ``--trust-code``, as the folder may come from somebody else.
        """
        known = self.manifest.get("models", {})
        models = dict.fromkeys(known.get(name, {}).get("origin", name) for name in self.config["models"])
        config = self.config | {"models": list(models)}
        words = ["python", "sweeps/transfer_matrix.py"]
        for key in (key for key, value in config.items() if key in manifests.SETTINGS and value is not None):
            listed = config[key] if isinstance(config[key], list | tuple) else [config[key]]
            text = ",".join(_untrusted(map(str, listed)) if key == "models" else map(str, listed))
            flag = f"--{key.replace('_', '-')}"
            words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
        return shlex.join([*words, "--out", out])

    def is_control(self, source: str) -> bool:
        """Whether a source is noise rather than an attacked model."""
        return source not in self.config["models"]

    def attacked(self, source: str) -> str | None:
        """The model whose examples a source is, or is made from; None for noise without a model."""
        return controls.attacked_model(source) if self.is_control(source) else source

    @property
    def dataset(self) -> Dataset:
        """The first ``examples`` clean images of its split; a UserError if those of that name here are others."""
        if self._dataset is None:
            found = self.data_here()
            known = self.manifest.get("dataset", {}).get("fingerprint")
            if len(found) < self.config["examples"] or known not in (None, found.fingerprint):
                raise UserError(
                    f"the images of {self.store.uri!r} are not those of {found.name!r} {found.split} on this machine; "
                    "use the original data set of the study."
                )
            self._dataset = found
        return self._dataset

    def data_here(self) -> Dataset:
        """The data set on this machine with the name of the study's, which may contain other images."""
        split = self._dataset or data.load(self.config["dataset"], self.config["split"])
        return split.subset(slice(self.config["examples"]))

    def matrix(self) -> pa.Table:
        """The rows of ``matrix.parquet``; ``clean_error_rate`` is null where an earlier revision wrote them."""
        table = self.store.read_shard(MATRIX)
        if table.schema.equals(schema.BRIEF_MATRIX):
            table = table.append_column(schema.MATRIX.field("clean_error_rate"), pa.nulls(len(table), pa.float64()))
        self._require(MATRIX, table.schema.equals(schema.MATRIX) and _are_rates(table))
        return table

    def examples(self, source: str, columns: list[str] | None = None, limit: int | None = None) -> pa.Table:
        """Attacked examples of a model in data-set order, or those of a control, computed again."""
        if self.is_control(source):
            return self._control_examples(source, columns, limit)
        shape = tuple(self.dataset.subset(slice(1)).images.shape[1:])
        return self._read_parts(examples_folder(source), schema.examples(shape), columns, limit)

    def predictions(self, source: str, target: str, columns: list[str] | None = None) -> pa.Table:
        """One model's predictions for one source's images, in data-set order."""
        return self._read_parts(predictions_folder(source, target), PREDICTIONS, columns, None)

    def images(self, examples: pa.Table) -> np.ndarray:
        """The distorted images of a table of examples, float32 [N, C, H, W]."""
        return decode_images(examples)

    def clean_images(self, index: np.ndarray) -> np.ndarray:
        """The originals at these positions of the data set, float32 [N, C, H, W]."""
        return self.dataset.images[self.rows_of(index)].numpy()

    def rows_of(self, index: np.ndarray) -> torch.Tensor:
        """The rows of ``dataset`` at these positions of the data set."""
        held = self.dataset.index.numpy()
        rows = np.searchsorted(held, index)
        self._require("examples/", bool((held[np.minimum(rows, len(held) - 1)] == index).all()))
        return torch.from_numpy(rows)

    def _require(self, name: str, holds: bool) -> None:
        if not holds:
            raise UserError(f"{self.store.path(name)!r} holds rows that do not belong to this study; verify the study.")

    def _read_parts(self, folder: str, expected: pa.Schema, columns: list[str] | None, limit: int | None) -> pa.Table:
        parts: list[pa.Table] = []
        rows = 0
        for name in self.store.files(folder, suffix=".parquet"):
            if limit is not None and rows >= limit:
                break
            parts.append(self.store.read_shard(name, columns))
            fields = [expected.field(column) for column in columns or expected.names]
            of_shape = parts[-1].schema.metadata or {}
            same = of_shape.get(schema.SHAPE_KEY) == (expected.metadata or {}).get(schema.SHAPE_KEY)
            self._require(name, same and parts[-1].schema.equals(pa.schema(fields)))
            rows += len(parts[-1])
        if not parts:
            raise UserError(f"{self.store.uri!r} holds no rows in {folder}; run the study to its end first.")
        return pa.concat_tables(parts).slice(0, limit)

    def _control_examples(self, source: str, columns: list[str] | None, limit: int | None) -> pa.Table:
        attacked = controls.attacked_model(source)
        distorted = None if attacked is None else examples_from_arrow(self.examples(attacked, limit=limit))
        dataset = self.dataset.subset(slice(limit))
        if distorted is not None:
            dataset = dataset.subset(self.rows_of(distorted.index))
        table = examples_to_arrow(controls.make(source, dataset, distorted, seed=self.config["seed"]))
        return table if columns is None else table.select(columns)


def _untrusted(names: Iterable[str]) -> list[str]:
    """Names for a command line, split at every comma, with a prefix for code."""
    parts = [part.strip() for name in names for part in name.split(",")]
    return [f"{UNTRUSTED}{part}" if external.is_code(part) else part for part in parts]


def _are_rates(matrix: pa.Table) -> bool:
    """Whether no cell of a matrix lacks its numbers, and no rate is beyond 0 and 1."""
    whole = all(matrix[name].null_count == 0 for name in ("source", "target", "n", "error_rate", "ci_low", "ci_high"))
    rates = [matrix[name].to_numpy() for name in matrix.column_names if name.endswith("rate") or name.startswith("ci")]
    return whole and not any(((rate < 0) | (rate > 1)).any() for rate in rates)
