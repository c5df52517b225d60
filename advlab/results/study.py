"""A study's folder: what it is, what it holds, and reading it back."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from advlab import data
from advlab.data import Dataset
from advlab.errors import UserError, one_line
from advlab.models import Checkpoint, external
from advlab.models.recipe import UnknownRecipe
from advlab.results import manifest, provenance, schema
from advlab.results.addresses import Addresses
from advlab.results.layout import MANIFEST, MATRIX, examples_folder, predictions_folder, weights_file
from advlab.results.schema import PREDICTIONS, decode_images
from advlab.results.store import Store
from advlab.results.tables import examples_from_arrow, examples_to_arrow
from advlab.transfer import controls

UNTRUSTED = "untrusted:"
"""Before the name of a model that is code, in a command that a study's folder tells: see ``--trust-code``."""


class Study:
    """One study in one folder, local or remote.

    ``study.json`` holds its configuration and provenance; the Parquet files hold its rows; everything else is a
    view of them.
    """

    def __init__(self, store: Store, manifest: dict[str, Any]) -> None:
        self.store = store
        self.manifest = manifest
        self._dataset: Dataset | None = None

    @classmethod
    def begin(
        cls, kind: str, config: dict[str, Any], out: str | None = None, *, attack: dict[str, Any] | None = None
    ) -> Study:
        """Start a study, or continue it where ``out`` holds part of the same one.

        Args:
            kind: what sort of study; with ``config`` and ``attack`` it decides what the same study is.
            config: its settings in full.
            out: its folder; one below ``runs/`` that is named after the above when absent.
            attack: the attack's arguments and the version of its code, where there is one.

        Raises:
            UserError: ``out`` holds another study, something that is no study, or cannot be written.
        """
        manifest = {
            "kind": kind,
            "config": config,
            "attack": attack,
            "seed": config.get("seed"),
            **provenance.describe(sys.argv),
            "finished": None,
            "hosts": None,
        }
        return cls.adopt(out or f"runs/{kind}-{study_identity(manifest)[:8]}", manifest)

    @classmethod
    def adopt(cls, out: str, manifest: dict[str, Any]) -> Study:
        """Start a study with a manifest that is there already, or continue it; what an earlier run recorded is kept.

        Raises:
            UserError: as for ``begin``.
        """
        store = Store(out, mending=True)
        identity = study_identity(manifest)
        if not store.exists(MANIFEST):
            if store.files() and not store.exists(MANIFEST):  # another command may have begun just now
                raise UserError(f"--out {out!r} holds files but no study.json; choose an empty or new folder.")
            store.require_writable()
            study = cls(store, {**manifest, "identity": identity})
            if store.create_json(MANIFEST, study.manifest):
                return study
        earlier = _read_manifest(store)
        if earlier["identity"] != identity:
            raise UserError(
                f"--out {out!r} holds another study ({_difference(earlier, manifest)}); "
                "choose another folder, or run with the settings of that study to continue it."
            )
        store.require_writable()
        return cls(store, earlier)

    @classmethod
    def open(cls, out: str) -> Study:
        """Read an existing study.

        Raises:
            UserError: there is no study in ``out``.
        """
        store = Store(out)
        if not store.exists(MANIFEST):
            raise UserError(f"{out!r} holds no study: there is no {MANIFEST} in it.")
        return cls(store, _read_manifest(store))

    def require_transfer(self) -> None:
        """Raise a UserError when this is a study of another kind, or one that lacks settings."""
        kind, lacking = self.manifest["kind"], manifest.lacking(self.manifest)
        if kind != "transfer":
            raise UserError(f"{self.store.uri!r} holds a study of kind {kind!r}; choose a transfer study.")
        if lacking:
            raise UserError(f"the study.json of {self.store.uri!r} has no {lacking[0]}; bring back its first version.")

    def save_manifest(self) -> None:
        """Write ``study.json`` as it now stands."""
        self.store.write_json(MANIFEST, self.manifest)

    def record_model(self, name: str, fingerprint: str, **described: Any) -> None:
        """Note a model's fingerprint, and what else there is to say of it, for the next ``save_manifest``.

        Raises:
            UserError: the study began with other weights.
        """
        models = self.manifest.setdefault("models", {})
        if models.get(name, {}).get("fingerprint", fingerprint) != fingerprint:
            raise UserError(
                f"model {name!r} is another than when the study in {self.store.uri!r} began; "
                "choose another --out, or bring that model back."
            )
        models[name] = {"fingerprint": fingerprint, **described}

    def finish(self, hosts: int) -> None:
        """Note that every row is there, and how many machines took part."""
        self.manifest |= {"finished": provenance.now(), "hosts": hosts}
        self.save_manifest()

    @property
    def config(self) -> dict[str, Any]:
        """The settings that make the study what it is."""
        config: dict[str, Any] = self.manifest["config"]
        return config

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
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the models' weights, as far as they are known."""
        return {name: model["fingerprint"] for name, model in self.manifest.get("models", {}).items()}

    @property
    def addresses(self) -> Addresses:
        """The content addresses its shards must have; the data set must be at hand."""
        return Addresses(self.manifest, self.fingerprints, self.dataset)

    def prediction_files(self) -> dict[tuple[str, str], dict[str, str]]:
        """By source and target, the files of its predictions with their content addresses; the data must be at hand."""
        addresses, pairs = self.addresses, product(self.sources, self.targets)
        return {pair: addresses.prediction_files(*pair, self.starts) for pair in pairs}

    @property
    def command(self) -> str:
        """The command line that goes on with the study where it lies, safe to paste into a POSIX shell.

        Models that are code stand in it as ``untrusted:NAME``, which runs nothing until the name is repeated with
        ``--trust-code``: the folder may be somebody else's.
        """
        models = self.manifest.get("models", {})
        named = dict.fromkeys(models.get(name, {}).get("origin", name) for name in self.config["models"])
        return command_line(self.config | {"models": list(named)}, self.store.uri)

    def checkpoint(self, model: str) -> Checkpoint:
        """The study's own copy of a model it trained."""
        return read_model(self.store, weights_file(model))

    def is_control(self, source: str) -> bool:
        """Whether a source is noise rather than an attacked model."""
        return source not in self.config["models"]

    @property
    def dataset(self) -> Dataset:
        """The clean images the study distorts: the first ``examples`` of its split.

        Raises:
            UserError: those of that name on this machine are others.
        """
        if self._dataset is None:
            found = self.data_here()
            known = self.manifest.get("dataset", {}).get("fingerprint")
            if len(found) < self.config["examples"] or known not in (None, found.fingerprint):
                raise UserError(
                    f"the images of {self.store.uri!r} are not those of {found.name!r} {found.split} on this machine; "
                    "use the data set that the study was made from."
                )
            self._dataset = found
        return self._dataset

    def data_here(self) -> Dataset:
        """What lies on this machine under the name of the study's images, be it those or others."""
        split = self._dataset or data.load(self.config["dataset"], self.config["split"])
        return split.subset(slice(self.config["examples"]))

    def matrix(self) -> pa.Table:
        """The rows of ``matrix.parquet``."""
        table = self.store.read_shard(MATRIX)
        self._require(MATRIX, table.schema.equals(schema.MATRIX) and _are_rates(table))
        return table

    def examples(self, source: str, columns: list[str] | None = None, limit: int | None = None) -> pa.Table:
        """Attacked examples of a model in data-set order, or those of a control, made anew."""
        if self.is_control(source):
            return self._control_examples(source, columns, limit)
        shape = tuple(self.dataset.subset(slice(1)).images.shape[1:])
        return self._read_parts(examples_folder(source), schema.examples(shape), columns, limit)

    def predictions(self, source: str, target: str, columns: list[str] | None = None) -> pa.Table:
        """What one model answered to one source's images, in data-set order."""
        return self._read_parts(predictions_folder(source, target), PREDICTIONS, columns, None)

    def images(self, examples: pa.Table) -> np.ndarray:
        """The distorted images of a table of examples, float32 [N, C, H, W]."""
        return decode_images(examples)

    def clean_images(self, index: np.ndarray) -> np.ndarray:
        """The originals at these positions of the data set, float32 [N, C, H, W]."""
        return self.dataset.images[self.rows_of(index)].numpy()

    def rows_of(self, index: np.ndarray) -> torch.Tensor:
        """Which rows of ``dataset`` hold these positions of the data set."""
        held = self.dataset.index.numpy()
        rows = np.searchsorted(held, index)
        self._require("examples/", bool((held[np.minimum(rows, len(held) - 1)] == index).all()))
        return torch.from_numpy(rows)

    def _require(self, name: str, holds: bool) -> None:
        if not holds:
            raise UserError(f"{self.store.path(name)!r} holds rows that are none of this study; verify the study.")

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


def command_line(config: Mapping[str, Any], out: str) -> str:
    """The command of a transfer study of this config, safe to paste into a POSIX shell; code is in it as untrusted."""
    words = ["python", "sweeps/transfer_matrix.py"]
    for key in (key for key, value in config.items() if key in manifest.SETTINGS and value is not None):
        listed = config[key] if isinstance(config[key], list | tuple) else [config[key]]
        text = ",".join(_untrusted(map(str, listed)) if key == "models" else map(str, listed))
        flag = f"--{key.replace('_', '-')}"
        words += [f"{flag}={text}"] if text.startswith("-") else [flag, text]
    return shlex.join([*words, "--out", out])


def read_model(store: Store, file: str) -> Checkpoint:
    """A trained model from a study's folder.

    Raises:
        UserError: another version wrote it; it is left as it is.
        ValueError: it is damaged, or not a model.
    """
    try:
        return Checkpoint.from_bytes(store.read_bytes(file))
    except UnknownRecipe as error:
        raise UserError(
            f"{store.path(file)!r} was written by another version of advlab: {error}; use that version, or update this."
        ) from error


def _untrusted(names: Iterable[str]) -> list[str]:
    """Names as a command line has them, separated at every comma, those of code marked as such."""
    parts = [part.strip() for name in names for part in name.split(",")]
    return [f"{UNTRUSTED}{part}" if external.is_code(part) else part for part in parts]


def study_identity(manifest: dict[str, Any]) -> str:
    """SHA-256 of what decides a study's rows: its kind, its settings, and those of its attack."""
    decisive = {key: manifest.get(key) for key in ("kind", "config", "attack")}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _read_manifest(store: Store) -> dict[str, Any]:
    try:
        found: dict[str, Any] = store.read_json(MANIFEST)
        manifest.check(found)
    except ValueError as error:
        raise UserError(
            f"{store.path(MANIFEST)!r} is no study of this program ({one_line(error)[:300]}); choose another folder."
        ) from error
    return found


def _are_rates(matrix: pa.Table) -> bool:
    """Whether no cell of a matrix lacks its numbers, and no rate is beyond 0 and 1."""
    whole = all(matrix[name].null_count == 0 for name in ("source", "target", "n", "error_rate", "ci_low", "ci_high"))
    rates = [matrix[name].to_numpy() for name in matrix.column_names if name.endswith("rate") or name.startswith("ci")]
    return whole and not any(((rate < 0) | (rate > 1)).any() for rate in rates)


def _difference(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    if earlier["kind"] != now["kind"]:
        return f"a {earlier['kind']} study"
    for part, what in (("config", ""), ("attack", "attack's ")):
        was, is_ = earlier.get(part) or {}, now.get(part) or {}
        for key in {**was, **is_}:
            if was.get(key) != is_.get(key):
                return f"its {what}{key} is {was.get(key)!r}, here {is_.get(key)!r}"
    return "its settings were edited"
