"""One image file as RGB pixels; files whose pixels have more than one meaning are refused."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Transpose

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
"""Those that are tried, whatever a file's name says: PostScript, for one, would be given to a program that runs it."""
PIXELS = 2**26
"""Pixels that are decoded at one time, and that one file may have."""
_ORIENTATION, _BITS, _WHITE_IS, _SIGN = 274, 258, 262, 339  # tags of Exif and TIFF
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
"""What makes an image upright that its camera stored otherwise."""

Image.core.set_block_size(PIXELS)  # type: ignore[attr-defined]  # Pillow's PILLOW_BLOCK_SIZE
# blocks of its default size, once freed, stay with the thread that had them: four threads then held 1.3 GiB


def opened(content: bytes) -> Image.Image:
    """The image in a file's bytes, its pixels not yet decoded.

    Raises:
        ValueError: more pixels than ``PIXELS``. Decoders raise whatever they like.
    """
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > PIXELS:
        raise ValueError(f"it has {image.width} × {image.height} pixels, more than {PIXELS:,}")
    return image


def pixels(image: Image.Image, size: int | None, margin: float) -> np.ndarray:
    """[H, W, 3] uint8, upright; brought to size × size where one is given.

    Raises:
        ValueError: several frames, transparent pixels, or numbers without a known white.
    """
    # cameras put a preview or a gain map behind the photo (MPO)
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"it has {frames} frames")
    image.load()
    colours = _opaque(_narrow(image))
    with suppress(Exception):  # Exif that is broken says nothing
        colours = colours.transpose(_TURNS[image.getexif()[_ORIENTATION]])
    return np.array(_cropped(colours, size, margin))


def _narrow(image: Image.Image) -> Image.Image:
    """An image of 8 bits per channel; 16-bit numbers are scaled, floating-point ones taken to be in [0, 1]."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "L" and tags.get(_SIGN, (1,))[0] == 2:
        raise ValueError("its pixels are signed integers")
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    if image.mode == "I" and image.format not in ("PPM", "PNG"):  # those two have 16 bits in it
        raise ValueError("its pixels are 32-bit or signed integers, whose white is unknown")
    if tags.get(_WHITE_IS) == 0:
        raise ValueError(f"its white is 0, which is not supported for pixels of mode {image.mode}")
    if "transparency" in image.info:
        raise ValueError("some of its pixels may be transparent")
    white = 1 if image.mode == "F" else 2 ** tags.get(_BITS, (16,))[0] - 1
    values = np.asarray(image)
    if not (values.min() >= 0 and values.max() <= white):
        raise ValueError(f"its pixels go from {values.min()} to {values.max()}, beyond [0, {white}]")
    return Image.fromarray(np.multiply(values, 255 / white, dtype=np.float32).round().astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """RGB of an image whose transparency, if it has any, hides nothing."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise ValueError("some of its pixels are transparent")
    return image if image.mode == "RGB" else image.convert("RGB")


def _cropped(image: Image.Image, size: int | None, margin: float) -> Image.Image:
    """The shorter side to size/margin, bicubic, then the centre."""
    if size is None:
        return image
    scale = round(size / margin) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if width * height > PIXELS:
        raise ValueError(f"brought to {size} pixels, the shorter side makes it {width} × {height}")
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
