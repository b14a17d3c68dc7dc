"""From the bytes of an image file to uint8 RGB, or a named refusal.

JPEG is decoded strictly: a decoder that only warns turns half an image into grey
and nobody hears of it. (CMYK alone goes through Pillow, which reads over a damaged
middle.) What TensorFlow's ``decode_image`` does with unusual files is done here:
metadata such as an EXIF rotation is not obeyed, transparency is dropped, of 16 bits
the upper 8 count, and of an animation the first frame. docs/data.md has the table.

docs/data.md says how much memory an image takes while it is decoded.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from nfnets.errors import UserError

# Pixels a header may promise before anything is allocated (about 200 MB of RGB).
MAX_PIXELS = 64 * 2**20

# Pixel modes of Pillow that hold 8 bits a channel, so that RGB loses nothing.
_EIGHT_BIT_MODES = frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
)
# Grey PNGs of 16 bits; which of the two depends on the version of Pillow.
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I"})
# Pixels converted to RGB at a time, which bounds the memory beside the result.
_STRIP_PIXELS = 2**22


class DamagedImage(Exception):
    """One record cannot be read: the message names the record and the reason.

    Training may put another record in its place; evaluation
    never does.
    """

    def __init__(self, record: str, reason: str):
        super().__init__(f"{record}: {reason}")
        self.record = record
        self.reason = reason


def decode(
    source: bytes | memoryview | str | os.PathLike[str], *, name: str | None = None
) -> np.ndarray:
    """Decodes one JPEG, PNG, WebP, GIF or BMP image; the content decides, not the name.

    Args:
        source: the file's bytes, or its path.
        name: what errors call the record; ``None`` means the path.

    Returns:
        uint8 ``[H, W, 3]``, RGB; grey is repeated, transparency dropped.

    Raises:
        DamagedImage: unreadable, empty, not an image, truncated or otherwise
            damaged, more than ``MAX_PIXELS`` pixels, or of floating-point values.
    """
    if isinstance(source, memoryview):
        source = bytes(source)
    if isinstance(source, bytes):
        data, name = source, name or f"{len(source)} bytes in memory"
    else:
        name = name or os.fspath(source)
        data = read_image_file(source, name)
    kind = image_kind(data)
    if kind is None:
        raise DamagedImage(name, _unknown_content(data))
    if kind == "jpeg":
        return _decode_jpeg(data, name)
    return _decode_pillow(data, name, kind)


def image_kind(data: bytes | memoryview) -> str | None:
    """The format that the first bytes promise; ``None`` for what is no image.

    Returns:
        ``jpeg``, ``png``, ``webp``, ``gif``, ``bmp`` or ``None``.
    """
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:2] == b"BM":
        return "bmp"
    return None


def read_image_file(path: str | os.PathLike[str], name: str) -> bytes:
    """The bytes of an image file; a DamagedImage of this name where that fails."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise DamagedImage(name, error.strerror or str(error)) from error


def _unknown_content(data: bytes) -> str:
    if not data:
        return "the file is empty"
    if not any(data[:4096]):
        return "the file holds only zero bytes"
    return f"not a JPEG, PNG, WebP, GIF or BMP image (it begins with {data[:8]!r})"


def _decode_jpeg(data: bytes, name: str) -> np.ndarray:
    """JPEG through libjpeg-turbo, strictly; CMYK, or no simplejpeg: through Pillow."""
    try:
        import simplejpeg
    except ImportError:
        return _decode_pillow(data, name, "jpeg")
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_pixels(height, width, name)
        if colorspace in ("CMYK", "YCCK"):
            return _decode_pillow(data, name, "jpeg")
        # Differs: TensorFlow, and so the official code, decodes with the fast DCT;
        # the accurate one costs nothing measurable. They differ by 1.1 grey levels.
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except (ValueError, MemoryError) as error:
        raise DamagedImage(name, one_line(error)) from error


def jpeg_header(data: bytes | memoryview) -> tuple[int, int, int] | None:
    """Height, width and components of a JPEG; ``None`` where it is none."""
    image_module = _pillow_image()
    if image_kind(data) != "jpeg":
        return None
    try:
        with image_module.open(io.BytesIO(data)) as image:  # reads the header only
            return image.height, image.width, len(image.getbands())
    except Exception:  # Pillow raises many types; the strict decoder will say which
        return None


def decode_scaled(data: bytes | memoryview, denominator: int) -> np.ndarray:
    """A JPEG at 1, 1/2 or 1/4 of its size, rounded up, for less work: uint8 RGB.

    Raises:
        DamagedImage: without the record's name, which the caller knows.
    """
    if denominator == 1:
        return decode(data)
    import simplejpeg

    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        return simplejpeg.decode_jpeg(
            data,
            "RGB",
            # The smallest of the decoder's sizes that is not below these.
            min_height=-(-height // denominator),
            min_width=-(-width // denominator),
            min_factor=1,
            strict=True,
        )
    except (ValueError, MemoryError) as error:
        raise DamagedImage("", one_line(error)) from error


def _decode_pillow(data: bytes, name: str, kind: str) -> np.ndarray:
    """Through Pillow's reader of this format and no other."""
    image_module = _pillow_image()
    try:
        with image_module.open(io.BytesIO(data), formats=[kind.upper()]) as image:
            _check_pixels(image.height, image.width, name)  # only the header is read
            sixteen_bits = kind == "png" and image.mode in _SIXTEEN_BIT_MODES
            if image.mode not in _EIGHT_BIT_MODES and not sixteen_bits:
                raise DamagedImage(name, f"pixel mode {image.mode} is not 8-bit colour")
            image.load()
            if sixteen_bits:
                return _in_strips(image, _upper_bits)
            # Pillow takes every CMYK JPEG for an inverted one, as Adobe's are.
            if kind == "jpeg" and image.mode == "CMYK" and "adobe" not in image.info:
                return _in_strips(image, _inverted_cmyk)
            return _in_strips(image, _rgb)
    except DamagedImage:
        raise
    except image_module.UnidentifiedImageError as error:
        raise DamagedImage(name, f"its {kind.upper()} header is damaged") from error
    except Exception as error:  # Pillow raises many types, SyntaxError among them
        raise DamagedImage(name, one_line(error)) from error


def _in_strips(image: Any, pixels_of: Callable[[Any], np.ndarray]) -> np.ndarray:
    """The pixels of a loaded Pillow image, uint8 ``[H, W, 3]``.

    Args:
        image: of any mode that ``pixels_of`` knows.
        pixels_of: of a strip of rows: values 0..255, ``[h, W, 3]`` or ``[h, W, 1]``.
    """
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        whole = end - top == height
        strip = image if whole else image.crop((0, top, width, end))
        pixels[top:end] = pixels_of(strip)
    return pixels


def _rgb(image: Any) -> np.ndarray:
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # directly, Pillow warns
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _inverted_cmyk(image: Any) -> np.ndarray:
    return _rgb(image.point(lambda ink: 255 - ink))


def _upper_bits(image: Any) -> np.ndarray:
    return (np.asarray(image) >> 8)[..., None]


def _check_pixels(height: int, width: int, name: str) -> None:
    if height * width == 0:
        raise DamagedImage(name, f"its header promises {width}x{height} pixels")
    if height * width > MAX_PIXELS:
        raise DamagedImage(
            name, f"{width}x{height} pixels, more than the limit of {MAX_PIXELS}"
        )


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _pillow_image() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("Pillow", "reading and resizing images") from error
    return Image


def missing_extra(package: str, feature: str) -> UserError:
    """The one line for a package that only the ``[train]`` extra installs."""
    return UserError(
        f"{package} is needed for {feature} and is not installed; "
        "run: pip install 'nfnets-flax[train]'"
    )
