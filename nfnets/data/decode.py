"""From the bytes of an image file to uint8 RGB, or a named refusal.

JPEG is decoded strictly: a decoder that only warns turns half an image into grey
and nobody hears of it. Metadata is not obeyed: an EXIF rotation is ignored, as
in TensorFlow and torchvision.
"""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np

from nfnets.errors import UserError

# Pixels a header may promise before anything is allocated (about 200 MB of RGB).
MAX_PIXELS = 64 * 2**20

# Pixel modes of Pillow that hold 8 bits a channel, so that RGB loses nothing.
_EIGHT_BIT_MODES = frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
)


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
    source: bytes | str | os.PathLike[str], *, name: str | None = None
) -> np.ndarray:
    """Decodes one JPEG, PNG, WebP or BMP image; the content decides, not the name.

    Args:
        source: the file's bytes, or its path.
        name: what errors call the record; ``None`` means the path.

    Returns:
        uint8 ``[H, W, 3]``, RGB; grey is repeated, transparency dropped.

    Raises:
        DamagedImage: unreadable, empty, not an image, truncated or otherwise
            damaged, more than ``MAX_PIXELS`` pixels, or more than 8 bits a channel.
    """
    if isinstance(source, bytes):
        data, name = source, name or f"{len(source)} bytes in memory"
    else:
        name = name or os.fspath(source)
        data = _read_file(source, name)
    kind = image_kind(data)
    if kind is None:
        raise DamagedImage(name, _unknown_content(data))
    if kind == "jpeg":
        return _decode_jpeg(data, name)
    return _decode_pillow(data, name)


def image_kind(data: bytes) -> str | None:
    """The format that the first bytes promise: jpeg, png, webp, bmp; else ``None``."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:2] == b"BM":
        return "bmp"
    return None


def _read_file(path: str | os.PathLike[str], name: str) -> bytes:
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
    return f"not a JPEG, PNG, WebP or BMP image (it begins with {data[:8]!r})"


def _decode_jpeg(data: bytes, name: str) -> np.ndarray:
    """JPEG through libjpeg-turbo, strictly; CMYK, or no simplejpeg: through Pillow."""
    try:
        import simplejpeg
    except ImportError:
        return _decode_pillow(data, name)
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_pixels(height, width, name)
        if colorspace in ("CMYK", "YCCK"):  # Adobe's are inverted; Pillow knows
            return _decode_pillow(data, name)
        # Differs: TensorFlow, and so the official code, decodes with the fast DCT;
        # the accurate one costs nothing measurable. They differ by 1.1 grey levels.
        return simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except (ValueError, MemoryError) as error:
        raise DamagedImage(name, _one_line(error)) from error


def _decode_pillow(data: bytes, name: str) -> np.ndarray:
    image_module = _pillow_image()
    try:
        with image_module.open(io.BytesIO(data)) as image:  # reads the header only
            _check_pixels(image.height, image.width, name)
            if image.mode not in _EIGHT_BIT_MODES:
                raise DamagedImage(name, f"pixel mode {image.mode} is not 8-bit colour")
            image.load()
            if image.mode == "P" and "transparency" in image.info:
                image = image.convert("RGBA")
            return np.array(image.convert("RGB"))
    except DamagedImage:
        raise
    except Exception as error:  # Pillow raises many types, SyntaxError among them
        raise DamagedImage(name, _one_line(error)) from error


def _check_pixels(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise DamagedImage(
            name, f"{width}x{height} pixels, more than the limit of {MAX_PIXELS}"
        )


def _one_line(error: Exception) -> str:
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
