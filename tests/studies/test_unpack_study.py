"""Packed photos are unpacked by Ray Data into folders that load as the photos they were."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
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
    with pytest.raises(ValueError, match=r"a class named '\\\\x1b\[2Jcat'"):
        class_folder("\x1b[2Jcat")


def test_numbers_keep_their_order_as_folders() -> None:
    assert torch.equal(torch.tensor([int(class_folder(n)) for n in range(1200)]), torch.arange(1200))
    assert sorted(map(class_folder, range(1200))) == list(map(class_folder, range(1200)))


def add(archive: tarfile.TarFile, name: str, content: bytes, **header: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in header.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(content))


def bomb(file: Path, image: bytes) -> None:
    """Three million zeros in three thousand bytes: packed twice over."""
    with gzip.open(file, "wb") as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        add(archive, "0.png", image + b"\0" * 3_000_000)
        add(archive, "0.cls", b"1")


def sparse(file: Path, image: bytes) -> None:
    """A member of 3 GiB of which the archive holds one block, as GNU tar writes it."""
    block = image.ljust(512, b"\0")
    member = tarfile.TarInfo("0.png")
    member.size, member.type = 512, tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[483:495] = b"%011o\0" % (3 * 2**30)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:512]))
    with tarfile.open(file, "w") as archive:
        add(archive, "0.cls", b"1")
    content = file.read_bytes()[:1024]
    file.write_bytes(content + bytes(header) + block + b"\0" * 1024)


def linked(file: Path, _image: bytes) -> None:
    with tarfile.open(file, "w") as archive:
        add(archive, "0.cls", b"1")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            add(archive, "0.png", b"", type=kind, linkname="/etc/passwd")


def climbing(file: Path, image: bytes) -> None:
    with tarfile.open(file, "w") as archive:
        add(archive, "../../0.png", image)
        add(archive, "../../0.cls", b"..")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (bomb, "cannot be read as webdataset"),
        (sparse, "0.png has 3,221,225,472 bytes, more than 268,435,456"),
        (linked, "a row has no --image"),
        (climbing, "a class without a name"),
    ],
)
def test_archives_that_are_made_to_do_harm(
    make: Callable[[Path, bytes], None],
    fault: str,
    encoded: list[bytes],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path / "a.tar", encoded[0])
    with pytest.raises(UserError, match=fault):
        unpack(UnpackConfig(source=str(tmp_path / "a.tar"), out=str(tmp_path / "out" / "photos"), layout="webdataset"))
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["photos"]
    assert "Traceback" not in capfd.readouterr().err


def test_columns_of_pickles_are_not_unpacked(encoded: list[bytes], tmp_path: Path) -> None:
    """Ray Data unpickles values of this type, which metadata alone gives to a column."""
    marks = {"ARROW:extension:name": "ray.data.arrow_pickled_object", "ARROW:extension:metadata": ""}
    fields = [pa.field("image", pa.binary()), pa.field("label", pa.large_binary(), metadata=marks)]
    columns = [pa.array([encoded[0]], pa.binary()), pa.array([b"cos\nsystem\n."], pa.large_binary())]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="a column of an extension type"):
        unpack(UnpackConfig(source=str(tmp_path / "a.parquet"), out=str(tmp_path / "photos")))
