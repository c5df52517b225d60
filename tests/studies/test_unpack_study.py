"""Packed photos are unpacked by Ray Data into folders that load as the photos they were."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from advlab import data
from advlab.data import Dataset
from advlab.engine.session import session
from advlab.errors import UserError
from advlab.studies.unpack import UnpackConfig, class_folder, unpack


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    with session(None):
        yield


@pytest.fixture(scope="module")
def photos() -> Dataset:
    return data.load("cifar10", "test").subset(slice(150))


@pytest.fixture(scope="module")
def encoded(photos: Dataset) -> list[bytes]:
    found = []
    for pixels in photos.images.mul(255).round().byte().permute(0, 2, 3, 1).numpy():
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "png")
        found.append(stream.getvalue())
    return found


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory, photos: Dataset, encoded: list[bytes]) -> Path:
    """Two files as Hugging Face lays images out."""
    folder = tmp_path_factory.mktemp("parquet")
    for part in range(2):
        images = [{"bytes": content, "path": None} for content in encoded[part::2]]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        labels = photos.labels[part::2].numpy()
        table = pa.table({"image": pa.array(images, kind), "label": labels, "file": ["photo"] * len(images)})
        pq.write_table(table, folder / f"part-{part}.parquet", row_group_size=40)
    return folder


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory, photos: Dataset, encoded: list[bytes]) -> Path:
    path = tmp_path_factory.mktemp("tar") / "photos.tar"
    with tarfile.open(path, "w") as archive:
        for number, (content, label) in enumerate(zip(encoded, photos.labels.tolist(), strict=True)):
            for suffix, part in (("png", content), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(part)
                archive.addfile(member, io.BytesIO(part))
    return path


def by_content(dataset: Dataset) -> set[tuple[bytes, int]]:
    return {
        (image.mul(255).round().byte().numpy().tobytes(), label)
        for image, label in zip(dataset.images, dataset.labels.tolist(), strict=True)
    }


@pytest.mark.parametrize("layout", ["parquet", "webdataset"])
def test_what_is_unpacked_loads_as_what_was_packed(layout: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = request.getfixturevalue("parquet" if layout == "parquet" else "tar")
    config = UnpackConfig(source=str(source), out=str(tmp_path / "photos"), layout=layout)  # type: ignore[arg-type]
    assert unpack(config) == 150
    loaded = data.load(f"folder:{tmp_path / 'photos'}")
    assert by_content(loaded) == by_content(request.getfixturevalue("photos"))
    assert loaded.class_names == tuple(f"{label:04d}" for label in range(10))
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "photos").rglob("*.png")}
    assert len(written) == 150
    next(iter(written)).unlink()
    assert unpack(config) == 150  # only what is missing is written again
    again = {path: path.stat().st_mtime_ns for path in (tmp_path / "photos").rglob("*") if path.is_file()}
    assert again.keys() == written.keys()
    assert sum(again[path] != stamp for path, stamp in written.items()) == 1


def test_mistakes_are_one_sentence(parquet: Path, tmp_path: Path) -> None:
    config = UnpackConfig(source=str(parquet), out=str(tmp_path / "photos"))
    with pytest.raises(UserError, match=r"a row has no --label kind; name one of image, label, file\."):
        unpack(replace(config, label="kind"))
    with pytest.raises(UserError, match="'file' of a row is not an encoded image"):
        unpack(replace(config, image="file"))
    with pytest.raises(UserError, match="cannot be read as parquet"):
        unpack(replace(config, source=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="cannot be read as webdataset"):
        unpack(replace(config, layout="webdataset"))


def test_names_of_classes_stay_within_the_folder() -> None:
    assert class_folder(7) == class_folder(b"7\n") == "0007"
    assert class_folder("great white/shark") == "great white_shark"
    assert class_folder("../../etc") == "_.._etc"
    with pytest.raises(ValueError, match="without a name"):
        class_folder(" ..")


def test_numbers_keep_their_order_as_folders() -> None:
    assert torch.equal(torch.tensor([int(class_folder(n)) for n in range(1200)]), torch.arange(1200))
    assert sorted(map(class_folder, range(1200))) == list(map(class_folder, range(1200)))
