"""Verification of a transfer study: every row exists exactly once and is correct."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from advlab.data import Dataset
from advlab.data.folder import Budget
from advlab.errors import UserError, one_line
from advlab.models import Checkpoint, external, registry
from advlab.models.recipe import UnknownRecipe
from advlab.store import MANIFEST, Store, bounds, parquet, study_identity, weights_file
from advlab.store.bounds import Damaged, Oversized
from advlab.store.retry import Result
from advlab.store.schema import BRIEF_MATRIX, PREDICTIONS, SHAPE_KEY, decode_images, examples
from advlab.studies.transfer import matrix
from advlab.studies.transfer.layout import MATRIX, examples_part, predictions_part
from advlab.studies.transfer.results import TransferStudy
from advlab.text import masked, printable
from advlab.transfer.generate import attacked_rows, distortion
from advlab.transfer.metrics import Counts

Kind = Literal["missing", "damaged", "newer", "foreign", "altered", "unread", "unchecked", "temporary"]

FIXES: dict[Kind, str] = {
    "missing": "run the study again",
    "damaged": "remove it (--repair does), then run the study again",
    "newer": "a newer version of advlab may have written it: verify it with that one",
    "foreign": "move it away, as readers of the folder count its rows",
    "altered": "restore the original",
    "unread": "fix the cause, or give verify more --memory",
    "unchecked": "provide its data set on this machine",
    "temporary": "harmless, delete it while no run writes here",
}

THREADS = 8
"""Shards checked in parallel; each takes about three times the memory of its images."""

_LISTED = 100_000
"""Missing shards that are listed one by one, in addition to a hundred for each existing file."""

_COMPARED = 64
"""Images compared at one time."""

_TOLERANCE = 1e-9
"""Relative tolerance of distances: the last bits of a sum depend on the processor."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with a file of a study, given relative to it; ``kind`` determines the fix, see ``FIXES``."""

    file: str
    kind: Kind
    problem: str

    @property
    def is_harmless(self) -> bool:
        """Whether the study is still sound."""
        return self.kind in ("unchecked", "temporary")

    @property
    def shown(self) -> str:
        """File and problem, made safe for a terminal, as both may contain untrusted text."""
        return f"{printable(self.file)}: {printable(masked(self.problem), 1000)}"

    def __str__(self) -> str:
        return f"{self.shown}; {FIXES[self.kind]}"


def verify(
    study: TransferStudy, on_progress: Callable[[int, int], None] = lambda _done, _total: None
) -> Iterator[Finding]:
    """Verify a transfer study shard by shard, so that memory does not grow with the number of examples.

    Nothing in it is changed. ``on_progress(done, total)`` counts shards of sources.
    """
    yield from _settings(study)
    dataset: Dataset | None = None
    try:
        dataset = study.data_here()
    except (UserError, OSError) as error:
        yield Finding(MANIFEST, "unchecked", f"only part of it can be checked: {one_line(error).rstrip('.')}")
    if dataset is not None:
        known = study.manifest.get("dataset", {}).get("fingerprint")
        if len(dataset) < study.config["examples"]:
            problem = f"it claims {study.config['examples']:,} images; its data set has {len(dataset):,}"
            yield Finding(MANIFEST, "altered", problem)
            dataset = None
        elif known not in (None, dataset.fingerprint):
            yield Finding(MANIFEST, "altered", "the images of its data set are not those on this machine")
            dataset = None
    files = _Files(study, dataset)
    yield from files.weights()
    yield from files.shards(on_progress)
    yield from files.others()


def _settings(study: TransferStudy) -> Iterator[Finding]:
    if study.manifest["identity"] != study_identity(study.manifest):
        yield Finding(MANIFEST, "altered", "its settings are not those of its identity")
    for model in study.targets:
        if model not in study.fingerprints:
            yield Finding(MANIFEST, "missing", f"model {model!r} was not ready when the study was interrupted")
    named = study.manifest.get("dataset", {})
    if any(key in named and named[key] != study.config[key.replace("name", "dataset")] for key in ("name", "split")):
        yield Finding(MANIFEST, "altered", "the data set it names is not that of its settings")


class _Flaw(Exception):
    """A problem with the file that is being checked."""


class _Newer(_Flaw):
    """The file is intact, but only another version can read it, so it is not removed."""


class _Files:
    """The files of a study, checked as far as possible without the data set if that is missing."""

    def __init__(self, study: TransferStudy, dataset: Dataset | None) -> None:
        self.study, self.store, self.dataset = study, study.store, dataset
        known = dataset is not None and set(study.targets) <= set(study.fingerprints)
        self.addresses = study.addresses if known else None
        self.unexpected = {name for folder in ("examples", "predictions") for name in self.store.files(folder)}
        self.inspected: set[str] = set()
        self.memory = Budget(self.store.memory)  # bytes of the files checked at one time

    def weights(self) -> Iterator[Finding]:
        """The models that the study trained."""
        findings: list[Finding] = []
        models = self.study.manifest.get("models", {})
        for model in self.study.fingerprints:
            if not external.is_external(model):
                self._inspect(weights_file(model), partial(_check_weights, model, models[model]), findings)
        yield from findings
        known = {*map(weights_file, self.study.targets)}
        for name in self.store.files("models", suffix=".safetensors"):
            if name not in known:
                yield Finding(name, "foreign", "it is not a model of the study")

    def shards(self, on_progress: Callable[[int, int], None]) -> Iterator[Finding]:
        """The rows and, where none are missing, the matrix that counts them."""
        study, complete, done = self.study, True, 0
        counts: dict[tuple[str, str], Counts] = {}
        starts: Sequence[int] = study.starts
        files = len(starts) * (len(study.sources) * (1 + len(study.targets)))
        if files > _LISTED + 100 * len(self.unexpected):
            problem = f"it claims about {files:,} files, and the folder has {len(self.unexpected):,}"
            yield Finding(MANIFEST, "altered", f"{problem}; only existing shards are checked")
            starts, complete = self._present(), False
        with ThreadPoolExecutor(THREADS) as threads:
            for source in study.sources:
                for findings, counted in threads.map(partial(self._shard, source), starts):
                    yield from findings
                    for target, more in counted.items():
                        pair = source, target
                        counts[pair] = counts[pair] + more if pair in counts else more
                    complete &= len(counted) == len(study.targets)
                    done += 1
                    on_progress(done, len(study.sources) * len(starts))
        if complete:
            found: list[Finding] = []
            self._inspect(MATRIX, partial(_check_matrix, matrix.reduce_counts(counts)), found)
            yield from found

    def others(self) -> Iterator[Finding]:
        """The files that do not belong to the study, after all others were checked."""
        for name in sorted(self.unexpected):
            if name.endswith(".parquet"):
                yield Finding(name, "foreign", "it is not part of the study")
        for name in self.store.strange_files():
            if name not in self.inspected:
                yield Finding(name, "foreign", "it is not a file, or is a link that leads out of the study")
        for name in self.store.temporary_files():
            yield Finding(name, "temporary", "it is being written, or was when a run was killed")

    def _present(self) -> list[int]:
        """The starting rows of shards of which any file exists."""
        found = (re.fullmatch(r"(?:.*/)?part-(\d{8,18})\.parquet", name) for name in self.unexpected)
        return sorted({start for match in found if match and (start := int(match[1])) in self.study.starts})

    def _shard(self, source: str, start: int) -> tuple[list[Finding], dict[str, Counts]]:
        """Check one shard of one source, and count its predictions by target."""
        findings: list[Finding] = []
        is_control, attacked = self.study.is_control(source), self.study.attacked(source)
        clean: Dataset | None = None
        common: dict[str, np.ndarray] = {}  # columns that every file of the shard must have
        aimed: dict[str, np.ndarray] = {}
        if self.dataset is not None:
            shard = self.dataset.subset(slice(start, start + self.study.config["shard_size"]))
            clean, common, aimed = _expected(shard, None if attacked is None else self.study.config["target"])
        if not is_control:
            address = self.addresses.examples(source, start) if self.addresses else None
            check = partial(_check_examples, address, common | aimed, clean)
            most = None if clean is None else 3 * clean.images.nbytes
            common = self._inspect(examples_part(source, start), check, findings, most) or common
        counts: dict[str, Counts] = {}
        for target in self.study.targets:
            address = self.addresses.predictions(source, target, start) if self.addresses else None
            check_answers = partial(_check_predictions, address, common, None if is_control else source == target)
            table = self._inspect(predictions_part(source, target, start), check_answers, findings)
            if table is not None:
                counts[target] = matrix.count_table(table)
                common = common or _common(table)
        return findings, counts

    def _inspect(
        self, name: str, check: Callable[[bytes, int], Result], findings: list[Finding], most: int | None = None
    ) -> Result | None:
        self.unexpected.discard(name)
        self.inspected.add(name)
        result, finding = _inspect(self.store, name, check, most, self.memory)
        findings += [finding] if finding else []
        return result


def sound_examples(
    store: Store, name: str, address: str, shard: Dataset, target: str
) -> tuple[bytes, dict[str, np.ndarray]] | None:
    """A file of examples and the columns that all predictions for it must have, if it passes all checks of ``verify``
    for an attack on these clean images.

    Its study is not trusted; ``address`` is the content address that it must have.
    """
    clean, common, aimed = _expected(shard, target)
    return _sound(store, name, partial(_check_examples, address, common | aimed, clean), 3 * clean.images.nbytes)


def sound_predictions(
    store: Store, name: str, address: str, columns: dict[str, np.ndarray], own: bool | None
) -> tuple[bytes, pa.Table] | None:
    """A file of predictions and its rows, if it passes all checks of ``verify``; ``own`` is whether they are the
    attacked model's own, None for controls.
    """
    return _sound(store, name, partial(_check_predictions, address, columns, own), None)


def _sound(
    store: Store, name: str, check: Callable[[bytes, int], Result], most: int | None
) -> tuple[bytes, Result] | None:
    return _inspect(store, name, lambda found, most: (found, check(found, most)), most, Budget(store.memory))[0]


def _expected(shard: Dataset, target: str | None) -> tuple[Dataset, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The distorted images of a shard, the columns of all its files, and those of the examples of an attack."""
    clean, classes = (shard, None) if target is None else attacked_rows(shard, target)
    common = {"index": clean.index.numpy(), "label": clean.labels.numpy()}
    return clean, common, {} if classes is None else {"target": classes.numpy()}


def _inspect(
    store: Store, name: str, check: Callable[[bytes, int], Result], most: int | None, memory: Budget
) -> tuple[Result | None, Finding | None]:
    """The result of ``check`` on a file's content, in at most ``most`` bytes of memory, or the finding."""
    try:
        allowed = store.memory if most is None else min(store.memory, most + bounds.FLOOR // 8)
        needed = bounds.allowance(store.size(name), allowed)
        with memory.held(needed):
            return check(store.read_bytes(name, needed), needed), None
    except FileNotFoundError:
        return None, Finding(name, "missing", "it is missing")
    except Oversized as error:
        return None, Finding(name, "unread", one_line(error))
    except (_Newer, UnknownRecipe) as error:
        return None, Finding(name, "newer", one_line(error).rstrip("."))
    except (_Flaw, Damaged) as flaw:
        return None, Finding(name, "damaged", one_line(flaw))
    except (OSError, MemoryError) as error:
        return None, Finding(name, "unread", f"it cannot be read ({one_line(error)})")
    except (ValueError, TypeError, KeyError, RecursionError, UserError, RuntimeError) as error:
        return None, Finding(name, "damaged", f"its content is invalid ({one_line(error)})")


def _check_weights(name: str, known: Mapping[str, Any], content: bytes, _most: int) -> None:
    found = Checkpoint.from_bytes(content)
    _require(found.fingerprint == known["fingerprint"], "its weights are not those the study was made with")
    _require(found.recipe.name == name, "it holds another model")
    _require(
        found.recipe.to_json() == known.get("recipe", found.recipe.to_json()), "its recipe differs from study.json's"
    )
    try:
        registry.find("network", found.recipe.network)
    except UserError as error:
        raise _Newer(str(error)) from error
    found.recipe.require_fits(found.weights)
    same = json.dumps(found.report) == json.dumps(known.get("report", found.report))  # NaN is not equal to itself
    _require(same, "its report differs from study.json's")


def _check_examples(
    address: str | None, columns: dict[str, np.ndarray], clean: Dataset | None, content: bytes, most: int
) -> dict[str, np.ndarray]:
    """The columns that all predictions of the shard must share with its examples."""
    table = _rows(address, content, most)
    metadata = table.schema.metadata or {}
    shape = json.loads(metadata.get(SHAPE_KEY, b"[]")) if clean is None else list(clean.images.shape[1:])
    expected = examples(tuple(shape))
    same_shape = metadata.get(SHAPE_KEY) == expected.metadata[SHAPE_KEY]
    _require(same_shape, "its images are of another shape")
    _require_columns(table, expected)
    _check_columns(table, columns)
    images = decode_images(table)
    for first in range(0, len(images), _COMPARED):
        part = slice(first, first + _COMPARED)
        _require(bool(((images[part] >= 0) & (images[part] <= 1)).all()), "an image leaves the box [0, 1]")
        if clean is not None:
            sizes = distortion(clean.images[part].numpy(), images[part])
            _check_columns(table.slice(first, _COMPARED), sizes)
    survives, success = (table.column(name).to_numpy() for name in ("survives_uint8", "success"))
    _require(bool((success | ~survives).all()), "an example survives rounding without success")
    return _common(table)


def _check_predictions(
    address: str | None, columns: dict[str, np.ndarray], own: bool | None, content: bytes, most: int
) -> pa.Table:
    """The rows; ``own`` as in `sound_predictions`."""
    table = _rows(address, content, most)
    _require_columns(table, PREDICTIONS)
    _check_columns(table, columns)
    source = table.column("source_prediction")
    nulls = len(table) if own is None else 0
    _require(source.null_count == nulls, "its source_prediction is wrongly null, or wrongly not null")
    if own:
        _check_columns(table, {"prediction": source.to_numpy()})
    return table


def _check_matrix(expected: pa.Table, content: bytes, most: int) -> None:
    _require(parquet.is_intact(content), "its checksum is wrong")
    found = parquet.decode(content, most=most)
    if found.schema.equals(BRIEF_MATRIX):
        expected = expected.select(BRIEF_MATRIX.names)
    _require(found.equals(expected), "its numbers are not the counts of predictions/")


def _rows(address: str | None, content: bytes, most: int) -> pa.Table:
    """The rows of an intact file with the right content address, if that is known."""
    _require(parquet.is_intact(content), "its checksum is wrong")
    found = parquet.metadata(content).get(parquet.ADDRESS_KEY, b"").decode()
    _require(address in (None, found), "its content address is that of other weights, images or settings")
    return parquet.decode(content, most=most)


def _require_columns(table: pa.Table, expected: pa.Schema) -> None:
    more = [name for name in table.column_names if name not in expected.names]
    if more and table.select(expected.names).schema.equals(expected):
        raise _Newer(f"it has a column {more[0]!r}, which this version of advlab does not know")
    _require(table.schema.equals(expected), "its columns are not those it should have")


def _common(table: pa.Table) -> dict[str, np.ndarray]:
    return {name: table.column(name).to_numpy() for name in ("index", "label", "rms")}


def _check_columns(table: pa.Table, expected: Mapping[str, np.ndarray]) -> None:
    for name, values in expected.items():
        found, tolerance = table.column(name).to_numpy(), _TOLERANCE if values.dtype.kind == "f" else 0.0
        same = found.shape == values.shape and np.allclose(found, values, rtol=tolerance, atol=0)
        _require(same, f"its {name} is wrong in at least one row")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise _Flaw(problem)
