"""Image files as they turn up in real folders, each with what must become of it."""

from __future__ import annotations

import dataclasses
import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

COLOUR = (200, 120, 40)
GREY = 77
LARGE = (6000, 10000)  # 60 megapixels, below the limit


@dataclasses.dataclass(frozen=True)
class OddImage:
    """A file that is read, or one that is refused.

    Attributes:
        data: the file.
        size: height and width that are read; None: it is damaged.
        pixel: the colour of all its pixels.
        tolerance: grey levels that a lossy format may be away.
        reason: part of the refusal, a regex.
        large: has 60 megapixels, so that not every test should read it.
    """

    data: bytes
    size: tuple[int, int] | None = None
    pixel: tuple[int, int, int] = COLOUR
    tolerance: int = 0
    reason: str = ""
    large: bool = False


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def plain(
    mode: str = "RGB", colour: Any = COLOUR, size: tuple[int, int] = (20, 30)
) -> Image.Image:
    """An image of one colour; size is height and width."""
    return Image.new(mode, size[::-1], colour)


def noise(size: tuple[int, int] = (64, 64)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(values)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png(
    size: tuple[int, int], bits: int, colour_type: int, row: bytes, *extra: bytes
) -> bytes:
    """A PNG whose rows are all the same; ``extra`` chunks stand before the pixels."""
    height, width = size
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    packer = zlib.compressobj(1)
    lines = [packer.compress(b"\0" + row) for _ in range(height if row else 0)]
    pixels = b"".join([*lines, packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            png_chunk(b"IHDR", header),
            *extra,
            png_chunk(b"IDAT", pixels),
            png_chunk(b"IEND", b""),
        ]
    )


def inflated(count: int) -> bytes:
    """A zlib stream of so many bytes."""
    packer = zlib.compressobj(9)
    blocks = [packer.compress(bytes(2**20)) for _ in range(count // 2**20)]
    return b"".join([*blocks, packer.flush()])


def jpeg_that_promises(height: int, width: int) -> bytes:
    data = bytearray(save(plain(), "JPEG"))
    start = data.index(b"\xff\xc0")  # frame header: length, bits, height, width
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def cmyk(stored: tuple[int, int, int, int], *, transform: int | None) -> bytes:
    """A JPEG of four channels with these values in the file.

    ``transform`` is what Adobe's marker says, 0 for CMYK and 2 for YCCK; None leaves
    the marker out.
    """
    # Pillow inverts on writing.
    ink = tuple(255 - value for value in stored)
    data = save(plain("CMYK", ink), "JPEG", quality=95)
    start = data.index(b"\xff\xee\x00\x0eAdobe")
    if transform is None:
        return data[:start] + data[start + 16 :]
    return data[: start + 15] + bytes([transform]) + data[start + 16 :]


def gif(canvas: tuple[int, int], frame: tuple[int, int]) -> bytes:
    """A GIF of these heights and widths, without pixels."""
    screen = struct.pack("<HHBBB", canvas[1], canvas[0], 0x80, 0, 0) + bytes(6)
    image = b"," + struct.pack("<HHHHB", 0, 0, frame[1], frame[0], 0)
    return b"GIF89a" + screen + image + b"\x02\x01\x44\x00;"


def bmp_that_promises(height: int, width: int) -> bytes:
    data = bytearray(save(plain(), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


@functools.cache
def readable() -> dict[str, OddImage]:
    """Unusual, but every pixel is there."""
    size, grey = (20, 30), (GREY,) * 3
    rotated = Image.Exif()
    rotated[0x0112] = 6  # "turn me by 90 degrees"
    palette = plain().quantize()
    frames = {"save_all": True, "append_images": [plain(colour=(0, 0, 0))]}
    # Two bytes a value, of which the upper one counts: 200.99 of 255 is 200.
    deep = b"".join(bytes([value, 253]) for value in COLOUR)
    return {
        "grey_jpeg": OddImage(save(plain("L", GREY), "JPEG"), size, grey, 2),
        "progressive_jpeg": OddImage(
            save(plain(), "JPEG", progressive=True), size, tolerance=2
        ),
        "jpeg_with_a_tail": OddImage(
            save(plain(), "JPEG") + b"tail" * 99, size, tolerance=2
        ),
        "rotated_jpeg": OddImage(save(plain(), "JPEG", exif=rotated), size, COLOUR, 2),
        # Adobe stores 255 - ink: red = cyan' * black' / 255, and so on.
        "cmyk_adobe": OddImage(
            cmyk((200, 120, 40, 255), transform=0), size, (200, 120, 40), 2
        ),
        "cmyk_adobe_black": OddImage(
            cmyk((200, 120, 40, 128), transform=0), size, (100, 60, 20), 2
        ),
        # Without the marker the file stores ink: red = (255 - c) (255 - k) / 255.
        "cmyk_plain": OddImage(
            cmyk((55, 135, 215, 0), transform=None), size, (200, 120, 40), 2
        ),
        # Y 100, Cb 128, Cr 178 is RGB (170, 64, 100); cyan' = 255 - red, and so on.
        "ycck_adobe": OddImage(
            cmyk((100, 128, 178, 255), transform=2), size, (85, 191, 155), 2
        ),
        "png": OddImage(save(plain(), "PNG"), size),
        "gif": OddImage(save(palette, "GIF"), size),
        "webp": OddImage(save(plain(), "WEBP", lossless=True), size),
        "bmp": OddImage(save(plain(), "BMP"), size),
        "one_bit_png": OddImage(save(plain("1", 1), "PNG"), size, (255,) * 3),
        # The colour below is kept, whatever the transparency.
        "rgba_png": OddImage(save(plain("RGBA", (*COLOUR, 0)), "PNG"), size),
        "grey_alpha_png": OddImage(save(plain("LA", (GREY, 9)), "PNG"), size, grey),
        "palette_png": OddImage(
            save(palette, "PNG", transparency=bytes(range(256))), size
        ),
        "png_16_bit_grey": OddImage(
            png(size, 16, 0, bytes([GREY, 250]) * size[1]), size, grey
        ),
        "png_16_bit_rgb": OddImage(png(size, 16, 2, deep * size[1]), size),
        "animated_gif": OddImage(save(palette, "GIF", **frames), size),
        "animated_webp": OddImage(save(plain(), "WEBP", lossless=True, **frames), size),
        "animated_png": OddImage(save(plain(), "PNG", **frames), size),
        "one_pixel": OddImage(save(plain(size=(1, 1)), "JPEG"), (1, 1), tolerance=2),
        "one_pixel_wide": OddImage(
            save(plain(size=(300, 1)), "JPEG"), (300, 1), tolerance=2
        ),
        "one_pixel_high": OddImage(save(plain(size=(1, 300)), "PNG"), (1, 300)),
    }


@functools.cache
def large() -> dict[str, OddImage]:
    """60 megapixels each."""
    big = save(plain("L", GREY, LARGE), "JPEG")
    return {
        "large_jpeg": OddImage(big, LARGE, (GREY,) * 3, 2, large=True),
        "large_png": OddImage(
            png(LARGE, 8, 2, bytes(COLOUR) * LARGE[1]), LARGE, large=True
        ),
        "large_16_bit_png": OddImage(
            png(LARGE, 16, 0, bytes([GREY, 250]) * LARGE[1]),
            LARGE,
            (GREY,) * 3,
            large=True,
        ),
    }


@functools.cache
def damaged() -> dict[str, OddImage]:
    """Bombs and broken files."""
    jpeg = save(noise(), "JPEG", quality=95)
    half = len(jpeg) // 2
    small_row = bytes(COLOUR) * 30
    text = png_chunk(b"zTXt", b"Comment\0\0" + inflated(2**26))
    profile = png_chunk(b"iCCP", b"profile\0\0" + inflated(2**26))
    noisy = save(noise(), "PNG")
    files = {
        "png_bomb": (png((10**5, 10**5), 8, 2, b""), "pixels"),
        "png_over_the_limit": (png((9000, 9000), 8, 2, b""), "9000x9000 pixels"),
        "jpeg_bomb": (jpeg_that_promises(65500, 65500), "65500x65500 pixels"),
        "bmp_bomb": (bmp_that_promises(10**5, 10**5), "pixels"),
        "gif_bomb": (gif((65535, 65535), (1, 1)), "pixels"),
        "gif_frame_bomb": (gif((1, 1), (65535, 65535)), "pixels"),
        "gif_of_no_pixels": (gif((0, 0), (0, 0)), "0x0 pixels|damaged"),
        "png_text_bomb": (png((20, 30), 8, 2, small_row, text), "too large"),
        "png_profile_bomb": (png((20, 30), 8, 2, small_row, profile), "too large"),
        "empty": (b"", "the file is empty"),
        "zeros": (bytes(5000), "only zero bytes"),
        "text": (b"no image at all\n", "not a JPEG.*no image"),
        "html": (b"<!DOCTYPE html><title>404</title>", "not a JPEG.*<!DOCTYP"),
        "tiff": (save(plain(), "TIFF"), "not a JPEG"),
        "jpeg_magic_only": (b"\xff\xd8\xff\xe0" + bytes(300), "subsampling|header"),
        "png_magic_only": (b"\x89PNG\r\n\x1a\n" + b"x" * 300, "Truncated|damaged"),
        "truncated_jpeg": (jpeg[:half], "Premature end"),
        "jpeg_without_end": (jpeg[:-2], "Premature end"),
        "zeros_in_the_scan": (
            jpeg[:half] + bytes(1000) + jpeg[half + 1000 :],
            "Corrupt JPEG",
        ),
        "truncated_cmyk": (
            save(noise().convert("CMYK"), "JPEG")[:-600],
            "truncated",
        ),
        "truncated_png": (noisy[:-2000], "truncated|broken"),
        "flipped_png": (
            noisy[:2000] + bytes([noisy[2000] ^ 255]) + noisy[2001:],
            "broken|incorrect|checksum|stream",
        ),
        "truncated_gif": (save(noise(), "GIF")[:1500], "truncated|broken"),
        "truncated_webp": (save(noise(), "WEBP")[:-500], "WEBP|decode|image"),
        "truncated_bmp": (save(noise(), "BMP")[:-500], "truncated"),
    }
    return {name: OddImage(data, reason=why) for name, (data, why) in files.items()}


def all_odd_images() -> dict[str, OddImage]:
    return readable() | large() | damaged()
