"""Folders of image files."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from advlab import data
from advlab.errors import UserError


def write(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write(tmp_path / "dog/one.png", (255, 0, 0))
    write(tmp_path / "cat/two.png", (0, 255, 0), (30, 20))
    write(tmp_path / "dog/three.png", (0, 0, 255), (8, 30))
    (tmp_path / "dog/notes.txt").write_text("no image")
    return tmp_path


def test_folders_are_classes_and_images_are_brought_to_one_size(photos: Path) -> None:
    loaded = data.load(f"folder:{photos}", size=8)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.labels.tolist() == [0, 1, 1]
    assert loaded.images.shape == (3, 3, 8, 8)
    assert loaded.images.dtype == torch.float32
    np.testing.assert_allclose(loaded.images[:, :, 4, 4], [[0, 1, 0], [1, 0, 0], [0, 0, 1]])


def test_nothing_is_decoded_before_it_is_asked_for(photos: Path) -> None:
    (photos / "dog/three.png").write_bytes(b"not an image")
    loaded = data.load(f"folder:{photos}", size=8)
    assert loaded.subset(torch.tensor([0])).images.shape == (1, 3, 8, 8)
    with pytest.raises(UserError, match=r"three.png cannot be read as an image"):
        _ = loaded.images


def test_a_pickled_folder_carries_its_files(photos: Path) -> None:
    loaded = data.load(f"folder:{photos}", size=8).subset(slice(1, 3))
    travelled = pickle.loads(pickle.dumps(loaded))
    for path in photos.rglob("*.png"):
        path.unlink()
    assert travelled.images.shape == (2, 3, 8, 8)
    assert travelled.index.tolist() == [1, 2]
    assert len(travelled.subset(slice(1)).images) == 1


def test_fingerprints_follow_content_size_and_labels(photos: Path) -> None:
    before = data.load(f"folder:{photos}", size=8).fingerprint
    assert data.load(f"folder:{photos}", size=8).fingerprint == before
    assert data.load(f"folder:{photos}", size=9).fingerprint != before
    (photos / "dog").rename(photos / "ape")
    assert data.load(f"folder:{photos}", size=8).fingerprint != before


def test_a_folder_named_after_the_split_is_the_split(photos: Path) -> None:
    write(photos / "test/x.png", (9, 9, 9))
    assert len(data.load(f"folder:{photos}", "test")) == 1
    assert len(data.load(f"folder:{photos}", "train")) == 4


def test_labels_may_come_from_a_table(tmp_path: Path) -> None:
    write(tmp_path / "a.png", (0, 0, 0))
    write(tmp_path / "b.png", (0, 0, 0))
    (tmp_path / "labels.csv").write_text("file,label\na.png,7\nb.png,2\n")
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.labels.tolist() == [7, 2]
    assert loaded.num_classes == 8
    (tmp_path / "labels.csv").write_text("a.png,zebra\nb.png,ant\n")
    assert data.load(f"folder:{tmp_path}").class_names == ("ant", "zebra")
    (tmp_path / "labels.csv").write_text("a.png,zebra\n")
    with pytest.raises(UserError, match=r"no label for 'b.png'"):
        data.load(f"folder:{tmp_path}")


def test_mistakes_are_reported(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        data.load("folder:/nowhere/at/all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in"):
        data.load(f"folder:{tmp_path / 'empty'}")
    with pytest.raises(UserError, match="images of 3 sizes"):
        _ = data.load(f"folder:{photos}").images
    with pytest.raises(UserError, match=r"'big' is not a size; write e.g. folder:PATH\?size=224"):
        data.load(f"folder:{photos}?size=big")


def test_a_name_may_hold_the_size(photos: Path) -> None:
    named, given = data.load(f"folder:{photos}?size=8"), data.load(f"folder:{photos}", size=8)
    assert torch.equal(named.images, given.images)
    assert named.fingerprint == given.fingerprint


def test_the_margin_may_be_left_out(tmp_path: Path) -> None:
    """A white picture with a black border of an eighth: the usual cut leaves most of the border out."""
    picture = Image.new("RGB", (64, 64))
    picture.paste((255, 255, 255), (4, 4, 60, 60))
    picture.save(tmp_path / "a.png")
    cut, whole = (data.load(f"folder:{tmp_path}", size=64, margin=margin) for margin in (0.875, 1.0))
    assert whole.images[0, 0, 0].max() == 0
    assert cut.images[0, 0, 1].max() > 0.5
    assert cut.fingerprint != whole.fingerprint
    assert pickle.loads(pickle.dumps(whole)).images[0, 0, 0].max() == 0


def test_imagenet_is_train_and_val(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for wnid in ("n01440764", "n01443537"):
            for number in range(count):
                write(tmp_path / split / wnid / f"{number}.png", (0, 0, 0))
    train, test = (data.load(f"imagenet:{tmp_path}", split, size=8) for split in ("train", "test"))
    assert (len(train), len(test)) == (6, 2)
    assert train.class_names == test.class_names == ("n01440764", "n01443537")
    with pytest.raises(UserError, match="has no split 'p1'; choose one of train, test, validation"):
        data.load(f"imagenet:{tmp_path}", "p1")
    with pytest.raises(UserError, match=f"there is no folder {tmp_path}/val/train"):
        data.load(f"imagenet:{tmp_path}/val")


def test_links_are_followed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    subset = tmp_path_factory.mktemp("subset")
    write(subset / "cow/own.png", (9, 9, 9))
    (subset / "dog").symlink_to(photos / "dog")
    (subset / "cat").mkdir()
    (subset / "cat/below").symlink_to(photos / "cat")
    (subset / "cat/file.png").symlink_to(photos / "cat/two.png")
    loaded = data.load(f"folder:{subset}", size=8)
    assert loaded.class_names == ("cat", "cow", "dog")
    assert loaded.labels.tolist() == [0, 0, 1, 2, 2]
    assert loaded.images.shape == (5, 3, 8, 8)


@pytest.mark.parametrize("target", ["gone", "..", "../dog", "."])
def test_links_that_lead_nowhere_or_round_in_circles_are_refused(photos: Path, target: str) -> None:
    (photos / "dog/link").symlink_to(target)
    with pytest.raises(
        UserError, match=r"the link .*/dog/link is broken, or leads to a folder that contains it; remove it"
    ):
        data.load(f"folder:{photos}")


def test_folders_that_link_to_each_other_are_refused(tmp_path: Path) -> None:
    for own, other in (("a", "b"), ("b", "a")):
        write(tmp_path / own / "0.png", (0, 0, 0))
        (tmp_path / own / "link").symlink_to(tmp_path / other)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/class").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="leads to a folder that contains it"):
        data.load(f"folder:{tmp_path}/photos")


@pytest.mark.parametrize(
    "hidden",
    [".ipynb_checkpoints/0.png", ".cache/deep/0.png", "__MACOSX/cat/0.png", "cat/._two.png", "cat/.trash/0.png",
     "cat/@eaDir/0.jpg", "$RECYCLE.BIN/0.png", ".0.png"],
)  # fmt: skip
def test_hidden_files_and_those_of_operating_systems_are_left_out(photos: Path, hidden: str) -> None:
    path = photos / hidden
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not an image")
    loaded = data.load(f"folder:{photos}", size=8)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.images.shape[0] == 3


def test_what_may_not_be_looked_into_is_reported(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may look into everything, so the system's answer is made up."""
    scan = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"/dog cannot be read \(Permission denied\); fix its permissions"):
        data.load(f"folder:{photos}")


def test_an_empty_class_keeps_its_number(photos: Path) -> None:
    (photos / "cow").mkdir()
    (photos / "cow/Thumbs.db").write_bytes(b"")
    loaded = data.load(f"folder:{photos}")
    assert loaded.class_names == ("cat", "cow", "dog")
    assert loaded.labels.tolist() == [0, 2, 2]


def test_a_class_that_only_another_split_has_keeps_its_number(tmp_path: Path) -> None:
    for folder in ("train/ant", "train/bee", "train/cat", "test/cat", "test/ant"):
        write(tmp_path / folder / "0.png", (0, 0, 0))
    (tmp_path / "train/notes.txt").write_text("")
    train, test = (data.load(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("ant", "bee", "cat")
    assert test.labels.tolist() == [0, 2]
    for split, label in (("train", "ant,bee,cat"), ("test", "cat,ant")):
        files = sorted((tmp_path / split).rglob("*.png"))
        lines = [f"{f.relative_to(tmp_path / split)},{each}" for f, each in zip(files, label.split(","), strict=True)]
        (tmp_path / split / "labels.csv").write_text("\n".join(["file,label", *lines]))
    assert data.load(f"folder:{tmp_path}", "test").labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("add", "told"),
    [
        ("notes/a.txt", "the folder .*/notes, which would be a class, has files and no images"),
        ("stray.png", "stray.png is beside the folders of classes; move it into its own"),
    ],
)
def test_folders_whose_classes_are_in_doubt_are_refused(photos: Path, add: str, told: str) -> None:
    (photos / add).parent.mkdir(exist_ok=True)
    (photos / add).write_bytes(b"")
    with pytest.raises(UserError, match=told):
        data.load(f"folder:{photos}")


def test_splits_are_not_classes(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path / split / "cat/0.png", (0, 0, 0))
    with pytest.raises(UserError, match="has no split 'test'; choose one of train, val"):
        data.load(f"folder:{tmp_path}", "test")


def test_labels_of_a_split_lie_in_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "test/a.png", (0, 0, 0))
    (tmp_path / "labels.csv").write_text("test/a.png,3\n")
    with pytest.raises(UserError, match=r"labels.csv does not mention .*/test; give that folder its own"):
        data.load(f"folder:{tmp_path}", "test")


def test_postscript_in_a_photo_s_name_reaches_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, programs = tmp_path / "ran", tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f'#!/bin/sh\necho "$*" >> {ran}\n')
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # what an earlier search found
    photo = tmp_path / "photos/cat/photo.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(hello) print\n%%EOF\n")
    for name in ("photo.jpg", "photo.png", "photo.tif"):
        photo = photo.rename(photo.with_name(name))
        with pytest.raises(UserError, match=f"{name} cannot be read as an image"):
            _ = data.load(f"folder:{tmp_path / 'photos'}?size=8").images
    assert not ran.exists()
    with suppress(OSError), Image.open(photo) as image:  # as it would be without the list of formats
        image.load()
    assert ran.exists()


def bomb(path: Path, side: int, kind: int) -> None:
    """A PNG of side × side pixels, black ones of one bit (kind 0) or white RGBA (6), that packs them 500 times."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    packer, row = zlib.compressobj(9), b"\0" + (b"\xff" * 4 * side if kind else bytes((side + 7) // 8))
    rows = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = side.to_bytes(4) * 2 + bytes([8 if kind else 1, kind, 0, 0, 0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    assert path.stat().st_size < side * len(row) / 500


DECODED = """
import resource, sys
from advlab import data
from advlab.errors import UserError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
loaded, before = data.load(sys.argv[1]), peak()
try:
    told = list(loaded.images.shape)
except UserError as error:
    told = error
print(peak() - before, told)
"""


@pytest.mark.parametrize(
    ("side", "kind", "told"),
    [
        (8_000, 0, "[6, 3, 8, 8]"),
        (8_000, 6, "[6, 3, 8, 8]"),
        (13_000, 0, "13000 × 13000 pixels"),
        (30_000, 0, "cannot be read as an image"),
    ],
)
def test_small_files_of_very_many_pixels_take_little_memory(side: int, kind: int, told: str, tmp_path: Path) -> None:
    bomb(tmp_path / "0.png", side, kind)
    for number in range(1, 6):
        shutil.copy(tmp_path / "0.png", tmp_path / f"{number}.png")
    command = [sys.executable, "-W", "ignore", "-c", DECODED, f"folder:{tmp_path}?size=8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    more, _, answer = done.stdout.strip().partition(" ")
    assert told in answer
    assert int(more) < 900, "MiB"
