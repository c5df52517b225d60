"""Decoding of one image file to RGB pixels; files with ambiguous pixels are refused."""

import io
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Transpose

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF")
"""Decoders that are tried, whatever the file name: PostScript, for example, is passed to a program that runs it."""
PIXELS = 2**26
"""Largest number of pixels decoded at one time, and in one file."""
_ORIENTATION, _BITS, _WHITE_IS, _SIGN = 274, 258, 262, 339  # tags of Exif and TIFF
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
"""The transformation that makes an image upright, by Exif orientation."""

Image.core.set_block_size(PIXELS)  # type: ignore[attr-defined]  # Pillow's PILLOW_BLOCK_SIZE
# freed blocks of its default size stay with their thread: four threads then held 1.3 GiB


def opened(content: bytes) -> Image.Image:
    """The image in a file's bytes, its pixels not yet decoded; raises a ValueError for more of them than ``PIXELS``.
    Decoders may raise anything else.
    """
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > PIXELS:
        raise ValueError(f"it has {image.width} × {image.height} pixels, more than {PIXELS:,}")
    return image


def pixels(image: Image.Image, size: int | None, margin: float) -> np.ndarray:
    """[H, W, 3] uint8, upright; resized to size × size if a size is given. Raises a ValueError for several frames,
    transparent pixels, or numbers of unknown range.
    """
    # cameras append a preview or a gain map to the photo (MPO)
    if image.format != "MPO" and (frames := getattr(image, "n_frames", 1)) > 1:
        raise ValueError(f"it has {frames} frames")
    image.load()
    colours = _opaque(_narrow(image))
    with suppress(Exception):  # ignore broken Exif data
        colours = colours.transpose(_TURNS[image.getexif()[_ORIENTATION]])
    return np.array(_cropped(colours, size, margin))


def _narrow(image: Image.Image) -> Image.Image:
    """An image of 8 bits per channel; 16-bit numbers are scaled, floating-point numbers must be in [0, 1]."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.mode == "L" and tags.get(_SIGN, (1,))[0] == 2:
        raise ValueError("its pixels are signed integers")
    if image.mode != "F" and not image.mode.startswith("I"):
        return image
    if image.mode == "I" and image.format not in ("PPM", "PNG"):  # these two have 16 bits in this mode
        raise ValueError("its pixels are 32-bit or signed integers, whose range is unknown")
    if tags.get(_WHITE_IS) == 0:
        raise ValueError(f"its white is 0, which is not supported for pixels of mode {image.mode}")
    if "transparency" in image.info:
        raise ValueError("some of its pixels may be transparent")
    white = 1 if image.mode == "F" else 2 ** tags.get(_BITS, (16,))[0] - 1
    values = np.asarray(image)
    if not (values.min() >= 0 and values.max() <= white):
        raise ValueError(f"its pixels range from {values.min()} to {values.max()}, beyond [0, {white}]")
    return Image.fromarray(np.multiply(values, 255 / white, dtype=np.float32).round().astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """RGB of an image without transparent pixels."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise ValueError("some of its pixels are transparent")
    return image if image.mode == "RGB" else image.convert("RGB")


def _cropped(image: Image.Image, size: int | None, margin: float) -> Image.Image:
    """Resize the shorter side to size/margin, bicubic, then crop the centre."""
    if size is None:
        return image
    scale = round(size / margin) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if width * height > PIXELS:
        raise ValueError(f"resizing its shorter side to {size} pixels makes it {width} × {height}")
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
