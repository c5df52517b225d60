"""Folders of image files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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


def test_mistakes_are_told(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        data.load("folder:/nowhere/at/all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no images in"):
        data.load(f"folder:{tmp_path / 'empty'}")
    with pytest.raises(UserError, match="images of 3 sizes"):
        _ = data.load(f"folder:{photos}").images
    with pytest.raises(UserError, match=r"'big' is no size; write e.g. folder:PATH\?size=224"):
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
