"""Whatever is broken in a file: a finding, a sentence or the right answer; no traceback, and neither long nor large."""

from __future__ import annotations

import io
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mutation
import numpy as np
import pytest
import torch
from PIL import Image

from advlab import data
from advlab.data import Dataset, idx
from advlab.errors import UserError, one_line
from advlab.hardening import snapshots
from advlab.hardening.pool import Pool
from advlab.models import Checkpoint
from advlab.store import Store
from advlab.store.layout import MANIFEST, weights_file
from advlab.studies.transfer import page, tables
from advlab.studies.transfer.layout import MATRIX, examples_part, predictions_part
from advlab.studies.transfer.results import TransferStudy
from advlab.studies.transfer.show import require_finished
from advlab.studies.transfer.verify import verify
from advlab.studies.transfer.view import View

FEW, MANY = 200, 20_000
MEMORY, SECONDS = 2**30, 10.0
"""Bytes more than before, and seconds of processor, that one input may take."""
ROOM = 4 * MEMORY
"""Bytes of address space above what the process has: an input that would take all memory ends itself alone."""


class Hang(BaseException):
    """An input took twice the seconds that it may: not an Exception, for readers make findings of these."""


@dataclass(frozen=True)
class Reader:
    """What reads a file, sound examples of it, and how these are broken.

    Attributes:
        read: given the content; what it raises of ``admitted`` is an answer.
        seeds: sound contents.
        mutate: breaks one.
        admitted: exceptions that the reader's docstring promises.
    """

    read: Callable[[bytes], object]
    seeds: Sequence[bytes]
    mutate: mutation.Mutator
    admitted: tuple[type[Exception], ...] = (UserError,)


@pytest.fixture(scope="module")
def study(make_study: Callable[..., TransferStudy], tmp_path_factory: pytest.TempPathFactory) -> TransferStudy:
    return make_study(
        tmp_path_factory.mktemp("fuzz") / "study",
        models=["softmax1"],
        examples=3,
        shard_size=3,
        controls=["gaussian-0.3"],
    )


@pytest.fixture
def readers(study: TransferStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Reader]:
    images = study.dataset

    def load(name: str, split: str = "train", **_: object) -> Dataset:
        if (name, split) != ("mnist", "test"):
            raise UserError(f"no data set {name!r} here.")
        return images

    load_folder = data.load
    monkeypatch.setattr("advlab.studies.transfer.results.data.load", load)

    def opened() -> TransferStudy:
        found = TransferStudy.open(study.store.uri)
        found.require_settings()
        return found

    def checked() -> None:
        """As ``verify`` and the report do."""
        assert all(str(finding).isprintable() for finding in verify(opened()))
        found = opened()
        require_finished(found)
        view = View(found)
        tables.markdown_matrix(view), tables.markdown_models(view), found.command, page._settings(found.manifest)

    def replaced(name: str, content: bytes, then: Callable[[], object]) -> object:
        path = Path(study.store.path(name))
        sound = path.read_bytes()
        path.write_bytes(content)
        try:
            return then()
        finally:
            path.write_bytes(sound)

    def seeds(name: str) -> list[bytes]:
        return [Path(study.store.path(name)).read_bytes()]

    def file_of_study(name: str, mutate: mutation.Mutator) -> Reader:
        return Reader(lambda content: replaced(name, content, checked), seeds(name), mutate)

    def shard(name: str, then: Callable[[], object]) -> Reader:
        def read() -> None:
            list(verify(opened()))
            then()

        return Reader(lambda content: replaced(name, content, read), seeds(name), mutation.of_parquet)

    pool, snapshot = _pool(tmp_path / "pool")
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (9, 9)).save(photos / "a.png")

    def pooled(name: str, content: bytes) -> None:
        Path(pool.path(name)).write_bytes(content)
        snapshots.load(pool.uri)

    def labelled(content: bytes) -> None:
        (photos / "labels.csv").write_bytes(content)
        load_folder(f"folder:{photos}?size=8", "test")

    def photographed(content: bytes) -> None:
        (photos / "labels.csv").unlink(missing_ok=True)
        (photos / "a.png").write_bytes(content)
        assert load_folder(f"folder:{photos}?size=8", "test").images.shape == (1, 3, 8, 8)

    examples, answers = examples_part("softmax1", 0), predictions_part("softmax1", "softmax1", 0)
    return {
        "study.json": file_of_study(MANIFEST, mutation.of_json),
        "matrix.parquet": file_of_study(MATRIX, mutation.of_parquet),
        "examples": shard(examples, lambda: opened().examples("softmax1")),
        "predictions": shard(answers, lambda: opened().predictions("softmax1", "softmax1")),
        "safetensors": Reader(
            lambda content: Checkpoint.from_bytes(content).network(),
            seeds(weights_file("softmax1")), mutation.of_bytes, (UserError, ValueError),
        ),
        "newest.json": Reader(
            partial(pooled, snapshots.POINTER), [Path(pool.path(snapshots.POINTER)).read_bytes()], mutation.of_json
        ),
        "pool": Reader(partial(pooled, snapshot), [Path(pool.path(snapshot)).read_bytes()], mutation.of_parquet),
        "idx": Reader(
            lambda content: idx.parse(np.frombuffer(content, np.uint8)),
            [b"\0\0\x08\x03" + bytes([0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3]) + bytes(18), b"\0\0\x08\x01\0\0\0\5five!"],
            mutation.of_bytes, (ValueError,),
        ),
        "labels.csv": Reader(labelled, [b"a.png,0\n", b'"a.png","cat"\r\nb.png,dog\r\n'], mutation.of_bytes),
        "images": Reader(photographed, _images(), mutation.of_bytes),
    }  # fmt: skip


NAMES = (
    "study.json", "matrix.parquet", "examples", "predictions", "safetensors", "newest.json", "pool", "idx",
    "labels.csv", "images",
)  # fmt: skip


@pytest.fixture
def bounded() -> Iterator[Callable[[], None]]:
    """While the test runs no input takes the whole machine, or stays for ever; call it before each."""

    def end(*_: object) -> None:
        raise Hang

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGVTALRM, end)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, limits[1]))
    yield lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 2 * SECONDS)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, handler)
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_no_input_ends_a_reader(name: str, count: int, readers: dict[str, Reader], bounded: Callable[[], None]) -> None:
    reader = readers[name]
    for seed in reader.seeds:
        reader.read(seed)
    largest, answers, failures = _largest(), 0, list[str]()
    for number, content in mutation.inputs(name, reader.seeds, reader.mutate, range(count)):
        bounded()
        began = time.process_time()
        try:
            reader.read(content)
            answers += 1
        except reader.admitted:
            pass
        except BaseException as error:
            failures.append(f"input {number} ends in {type(error).__name__}: {one_line(error)[:200]}")
            traceback.print_exc()
        if (spent := time.process_time() - began) >= SECONDS:
            failures.append(f"input {number} takes {spent:.0f} s")
        if (more := _largest() - largest) >= MEMORY:
            failures.append(f"input {number} takes {more / 2**20:.0f} MiB")
            largest += more
    most = _largest() / 2**20
    print(f"{name}: {count} inputs, {answers} of them read, {len(failures)} failures, {most:.0f} MiB at most")
    assert not failures, "\n".join(failures)


def _largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _pool(folder: Path) -> tuple[Store, str]:
    rows, width = 5, 12
    pool, zeros = Pool(rows), torch.zeros(rows, dtype=torch.long)
    columns = {"values": torch.rand(rows, width), "labels": zeros, "births": zeros, "index": torch.arange(rows)}
    columns |= {"l2": torch.ones(rows), "loss": torch.ones(rows)}
    pool.restore({f"0.{name}": column for name, column in columns.items()})
    store = Store(folder)
    snapshots.save(store, "", pool, 1, {0: zeros})
    return store, "step=000000001/layer-0.parquet"


def _images() -> list[bytes]:
    found = []
    for kind, mode in (
        ("JPEG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("BMP", "RGB"), ("WEBP", "RGB"), ("PPM", "L"), ("TIFF", "RGB"),
    ):  # fmt: skip
        stream = io.BytesIO()
        Image.effect_noise((20, 16), 50).convert(mode).save(stream, kind)
        found.append(stream.getvalue())
    return found
