"""Merging of studies, or of parts of one study, that were computed in different places."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from advlab.data import Dataset
from advlab.errors import UserError
from advlab.models import external
from advlab.models.study_models import stored
from advlab.store import Store, parquet, provenance, study_identity, weights_file
from advlab.store.retry import Result
from advlab.studies.transfer import matrix
from advlab.studies.transfer.layout import MATRIX, examples_part, predictions_part
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.verify import sound_examples, sound_predictions

THREADS = 8
"""Shards copied in parallel; each takes the memory of its images."""

_UNITED = ("models", "controls", "examples")
"""Settings in which the parts may differ, as none of them affects the rows of a shard."""

_ORIGIN = ("identity", "command", "versions", "revision", "started", "resumed", "finished", "hosts")
"""Fields of a part's manifest that are kept."""


def merge(
    parts: list[TransferStudy], out: str, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> tuple[TransferStudy, int]:
    """Write the union of transfer studies to ``out``, or continue it if ``out`` holds part of it.

    The union has the models and controls of all parts, and as many examples as the largest. A shard is copied from the
    first part where it has the content address that it must have in the union and passes the checks of ``verify``.
    Predictions are copied only from parts with exactly the examples of the union, to the byte, so that all rows agree.
    No part is changed.

    Returns the union, and the number of its missing shards, which its command computes; raises a UserError for studies
    with incompatible rows, or an ``out`` that holds something else.
    """
    for part in parts:
        _require_mergeable(part, parts[0])
    largest = max(parts, key=lambda part: part.config["examples"])
    dataset = largest.data_here()
    for part in parts:
        if part.manifest["dataset"]["fingerprint"] != dataset.subset(slice(part.config["examples"])).fingerprint:
            raise UserError(
                f"{part.store.uri!r} cannot be merged: its images are not those of {dataset.name} {dataset.split} on "
                "this machine; merge on a machine with the study's data set."
            )
    _models(parts)

    config = parts[0].config | {"examples": largest.config["examples"]}
    for setting in ("models", "controls"):
        config[setting] = list(dict.fromkeys(name for part in parts for name in part.config[setting]))
    origins = [
        {"folder": part.store.uri} | {key: part.manifest[key] for key in _ORIGIN if key in part.manifest}
        for part in parts
    ]
    manifest = {key: parts[0].manifest[key] for key in ("kind", "attack", "seed")} | {"config": config}
    manifest |= provenance.describe(sys.argv) | {"finished": None, "hosts": None, "merged": origins}
    union = TransferStudy.adopt(out, manifest)
    models = _models([union, *parts])  # ``out`` may have models of its own
    union.manifest["models"] = {name: models[name] for name in union.targets}
    union.manifest["dataset"] = largest.manifest["dataset"]
    union.save_manifest()
    for name in union.targets:
        _copy_weights(name, union, parts)

    missing = _Copy(union, parts, dataset).run(on_progress)
    if not missing:
        union.store.write_table(MATRIX, matrix.build(union.store, union.prediction_files()))
        union.manifest["finished"] = union.manifest["finished"] or provenance.now()
        union.save_manifest()
    return union, missing


def _require_mergeable(part: TransferStudy, first: TransferStudy) -> None:
    """Raise a UserError if the settings of a part are incompatible with those of the first."""
    where = f"{part.store.uri!r} cannot be merged"
    if part.manifest["identity"] != study_identity(part.manifest):
        raise UserError(f"{where}: its settings were edited; restore its original study.json.")
    if set(part.targets) - set(part.fingerprints):
        raise UserError(f"{where}: it was interrupted before its models were ready; leave it out.")
    for kind, ours, theirs in (
        ("setting", part.config, first.config),
        ("attack's", part.manifest["attack"], first.manifest["attack"]),
    ):
        for key in {**theirs, **ours}:
            if ours.get(key) != theirs.get(key) and not (kind == "setting" and key in _UNITED):
                raise UserError(
                    f"{where} with {first.store.uri!r}: its {kind} {key} is {ours.get(key)!r}, there "
                    f"{theirs.get(key)!r}; only models, controls and the number of examples may differ."
                )


def _models(studies: list[TransferStudy]) -> dict[str, Any]:
    """The model entries of all studies; raises a UserError if a name has different weights."""
    found: dict[str, Any] = {}
    holder: dict[str, str] = {}
    for study in studies:
        for name, model in study.manifest.get("models", {}).items():
            if found.setdefault(name, model)["fingerprint"] != model["fingerprint"]:
                raise UserError(
                    f"model {name!r} has other weights in {study.store.uri!r} than in {holder[name]!r}, so their rows "
                    "cannot be merged; copy the trained models of one cache to the other before both begin."
                )
            holder.setdefault(name, study.store.uri)
    return found


def _copy_weights(model: str, union: TransferStudy, parts: list[TransferStudy]) -> None:
    name = weights_file(model)
    if external.is_external(model) or union.store.exists(name):
        return
    for part in parts:
        found = stored(part.store, model) if part.store.exists(name) else None  # links that lead out are passed over
        if found is not None and (found.recipe.name, found.fingerprint) == (model, union.fingerprints[model]):
            found.recipe.require_fits(found.weights)
            union.store.write_bytes(name, found.to_bytes())
            return


class _Copy:
    def __init__(self, union: TransferStudy, parts: list[TransferStudy], dataset: Dataset) -> None:
        self.union, self.addresses, self.dataset = union, union.addresses, dataset
        self.holders = [union.store, *(part.store for part in parts)]

    def run(self, on_progress: Callable[[int, int], None]) -> int:
        """Copy all available shards; returns the number of missing ones."""
        groups = list(product([*self.union.targets, None], self.union.starts))
        missing = 0
        with ThreadPoolExecutor(THREADS) as threads:
            for done, lacking in enumerate(threads.map(self._group, groups), 1):
                missing += lacking
                on_progress(done, len(groups))
        return missing

    def _group(self, group: tuple[str | None, int]) -> int:
        """Copy a shard's examples of one model and the files derived from them, or (None) its model-free noise."""
        attacked, start = group
        sources = [source for source in self.union.sources if self.union.attacked(source) == attacked]
        rows = self.dataset.subset(slice(start, start + self.union.config["shard_size"]))
        holders, missing = self.holders, 0
        common = {"index": rows.index.numpy(), "label": rows.labels.numpy()}
        own: dict[str, np.ndarray] = {}  # columns of the attacked model's examples
        if attacked is not None:
            name, address = examples_part(attacked, start), self.addresses.examples(attacked, start)
            aim = self.union.config["target"]
            check = partial(sound_examples, name=name, address=address, shard=rows, target=aim)
            found = self._take(name, holders, check)
            if found is None:
                return 1 + len(sources) * len(self.union.targets)
            common, own = {column: found[column] for column in common}, found
            checksum = _checksum(self.union.store, name)
            holders = [holder for holder in holders if _checksum(holder, name) == checksum]
        for source, target in product(sources, self.union.targets):
            is_control = self.union.is_control(source)
            columns, is_own = (common, None) if is_control else (own, source == target)
            name, address = predictions_part(source, target, start), self.addresses.predictions(source, target, start)
            sound = partial(sound_predictions, name=name, address=address, columns=columns, own=is_own)
            missing += self._take(name, holders, sound) is None
        return missing

    def _take(
        self, name: str, holders: list[Store], sound: Callable[[Store], tuple[bytes, Result] | None]
    ) -> Result | None:
        """Copy a shard from the first store that has it sound; returns its columns, or None if no store has."""
        for holder in holders:
            found = sound(holder)
            if found is not None:
                if holder is not self.union.store:
                    self.union.store.write_bytes(name, found[0])
                return found[1]
        return None


def _checksum(store: Store, name: str) -> bytes | None:
    return store.metadata(name).get(parquet.CHECKSUM_KEY)
