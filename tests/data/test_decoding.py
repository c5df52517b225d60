"""Every kind of pixel is decoded to the picture that it means, or refused by its file's name."""

from __future__ import annotations

import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from advlab import data
from advlab.errors import UserError

RAMP = np.tile(np.linspace(0, 1, 32), (24, 1))
GREY = Image.fromarray((RAMP * 255).round().astype(np.uint8))
SCENE = Image.merge("RGB", [GREY, ImageOps.invert(GREY), GREY.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])


OPAQUE = GREY.point(lambda _: 255)


def decoded(folder: Path) -> np.ndarray:
    """The one image of a folder, [H, W, 3]."""
    return data.load(f"folder:{folder}", "test").images[0].permute(1, 2, 0).numpy()


def grey(scale: float, dtype: str) -> Image.Image:
    values = RAMP * scale
    return Image.fromarray((values if "f" in dtype else values.round()).astype(dtype))


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("8.png", GREY), ("16.png", grey(65535, "<u2")), ("16.tif", grey(65535, "<u2")),
        ("16b.tif", grey(65535, ">u2")), ("float.tif", grey(1, "<f4")), ("16.ppm", grey(65535, "<i4")),
        ("8.bmp", GREY), ("8.webp", GREY.convert("RGB")), ("la.png", Image.merge("LA", [GREY, OPAQUE])),
        ("la.tif", Image.merge("LA", [GREY, OPAQUE])), ("palette.png", GREY.convert("P")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_ramp_from_black_to_white_stays_that_ramp(tmp_path: Path, name: str, image: Image.Image) -> None:
    image.save(tmp_path / name, lossless=True)
    found = decoded(tmp_path)
    assert found.shape == (24, 32, 3)
    np.testing.assert_allclose(found, np.repeat(RAMP[..., None], 3, 2), atol=1 / 255)


@pytest.mark.parametrize("maximum", [255, 1023, 4095, 65535])
def test_portable_maps_have_a_maximum_of_their_own(tmp_path: Path, maximum: int) -> None:
    width = "u1" if maximum < 256 else ">u2"
    body = (RAMP * maximum).round().astype(width).tobytes()
    (tmp_path / "a.ppm").write_bytes(b"P5 32 24 %d\n" % maximum + body)
    np.testing.assert_allclose(decoded(tmp_path)[..., 0], RAMP, atol=1 / 255)


def twelve_bits() -> bytes:
    """A TIFF of 12 bits per pixel, two pixels in three bytes."""
    values = (RAMP * 4095).round().astype(int).reshape(-1, 2)
    body = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.tolist())
    entries = [(256, 32), (257, 24), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 24), (279, len(body))]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + struct.pack("<H", len(entries)) + table + bytes(4)


def test_twelve_bits_reach_white(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(twelve_bits())
    np.testing.assert_allclose(decoded(tmp_path)[..., 0], RAMP, atol=1 / 255)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("rgb.png", SCENE), ("opaque.png", SCENE.convert("RGBA")), ("opaque.webp", SCENE.convert("RGBA")),
        ("cmyk.tif", SCENE.convert("CMYK")), ("ycbcr.tif", SCENE.convert("YCbCr")),
        ("palette.png", SCENE.quantize(256)), ("rgb.jpg", SCENE), ("cmyk.jpg", SCENE.convert("CMYK")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_colours_keep_their_meaning(tmp_path: Path, name: str, image: Image.Image) -> None:
    image.save(tmp_path / name, lossless=True, quality=100, subsampling=0)
    np.testing.assert_allclose(decoded(tmp_path), np.asarray(SCENE) / 255, atol=0.05)


def test_sixteen_bits_of_each_colour_are_brought_to_eight(tmp_path: Path) -> None:
    pixels = np.stack([RAMP, 1 - RAMP, RAMP], -1)
    rows = b"".join(b"\0" + row.tobytes() for row in (pixels * 65535).round().astype(">u2"))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    coded = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(coded))
    np.testing.assert_allclose(decoded(tmp_path), pixels, atol=1 / 255)


def test_one_bit_is_black_or_white(tmp_path: Path) -> None:
    bits = GREY.convert("1")
    for name in ("a.png", "a.tif", "a.bmp"):
        bits.save(tmp_path / name)
        np.testing.assert_array_equal(decoded(tmp_path)[..., 0], np.asarray(bits).astype(np.float32))
        (tmp_path / name).unlink()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    SCENE.save(tmp_path / f"a.{suffix}", exif=exif, lossless=True, quality=100, subsampling=0)
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    found = decoded(tmp_path)
    assert found.shape == ((24, 32, 3) if orientation < 5 else (32, 24, 3))
    np.testing.assert_allclose(found, upright / 255, atol=1e-6)


def test_broken_exif_is_no_reason_to_refuse_a_photo(tmp_path: Path) -> None:
    SCENE.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0\x2a\0\0\xff\xffgarbage")
    assert decoded(tmp_path).shape == (24, 32, 3)


def transparent() -> dict[str, tuple[Image.Image, dict[str, Any]]]:
    half = GREY.point(lambda value: 255 if value > 128 else 0)
    return {
        "rgba.png": (Image.merge("RGBA", [*SCENE.split(), half]), {}),
        "rgba.webp": (Image.merge("RGBA", [*SCENE.split(), half]), {}),
        "la.png": (Image.merge("LA", [GREY, half]), {}),
        "palette.png": (SCENE.quantize(16), {"transparency": 3}),
        "key.png": (SCENE, {"transparency": SCENE.getpixel((3, 3))}),
        "grey-key.png": (GREY, {"transparency": 0}),
    }


@pytest.mark.parametrize("name", transparent())
def test_transparent_pixels_have_no_colour_and_are_refused(tmp_path: Path, name: str) -> None:
    image, options = transparent()[name]
    image.save(tmp_path / name, **options)
    with pytest.raises(UserError, match=rf"{name} cannot be read as an image \(some of its pixels are transparent\)"):
        decoded(tmp_path)


@pytest.mark.parametrize(
    ("name", "image", "told"),
    [
        ("int.tif", grey(2**31 - 1, "<i4"), "its pixels are 32-bit or signed integers, whose range is unknown"),
        ("signed.tif", grey(32767, "<i2"), "its pixels are 32-bit or signed integers"),
        ("bytes.tif", grey(255, "<f4"), r"its pixels range from 0.0 to 255.0, beyond \[0, 1\]"),
        (
            "nan.tif",
            Image.fromarray(np.where(RAMP > 0.5, np.nan, RAMP).astype("<f4")),
            "its pixels range from nan to nan",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and ".tif" in value else "",
)
def test_numbers_whose_white_is_unknown_are_refused(tmp_path: Path, name: str, image: Image.Image, told: str) -> None:
    image.save(tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} cannot be read as an image \({told}.*save it as one opaque picture"):
        decoded(tmp_path)


@pytest.mark.parametrize(("name", "dtype"), [("16.tif", "<u2"), ("float.tif", "<f4")])
def test_an_inverted_scale_of_many_bits_is_refused(tmp_path: Path, name: str, dtype: str) -> None:
    image = grey(65535 if dtype == "<u2" else 1, dtype)
    image.save(tmp_path / name, tiffinfo={262: 0})
    content = (tmp_path / name).read_bytes()
    at = content.index(struct.pack("<HHI", 262, 3, 1))
    (tmp_path / name).write_bytes(content[: at + 8] + struct.pack("<HH", 0, 0) + content[at + 12 :])
    with pytest.raises(UserError, match="its white is 0"):
        decoded(tmp_path)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_several_frames_are_refused(tmp_path: Path, name: str) -> None:
    SCENE.save(tmp_path / name, save_all=True, append_images=[ImageOps.invert(SCENE)])
    with pytest.raises(UserError, match=rf"{name} cannot be read as an image \(it has 2 frames\)"):
        decoded(tmp_path)


def test_a_photo_with_a_preview_behind_it_is_that_photo(tmp_path: Path) -> None:
    SCENE.save(tmp_path / "photo.mpo", save_all=True, append_images=[SCENE.resize((8, 8))], quality=100, subsampling=0)
    (tmp_path / "photo.mpo").rename(tmp_path / "photo.jpg")
    np.testing.assert_allclose(decoded(tmp_path), np.asarray(SCENE) / 255, atol=0.05)


def test_images_travel_as_they_are(tmp_path: Path) -> None:
    grey(65535, "<u2").save(tmp_path / "a.png")
    loaded = data.load(f"folder:{tmp_path}", "test")
    assert torch.equal(pickle.loads(pickle.dumps(loaded)).images, loaded.images)
