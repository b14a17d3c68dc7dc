"""The C++ decoder of baseline JPEGs: the bytes of libjpeg-turbo, or nothing."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import needs_native, sample_image
from PIL import Image, ImageFile

from nfnets.data import native

pytestmark = needs_native

Box = tuple[int, int, int, int]
# Pillow's names of chroma subsampling; None is a grey picture.
SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", None)


@pytest.fixture(autouse=True)
def _large_buffer(monkeypatch):
    # Pillow's own is too small to write some noise in one go.
    monkeypatch.setattr(ImageFile, "MAXBLOCK", 1 << 20)


def picture(rng: random.Random, height: int, width: int) -> np.ndarray:
    """Noise, saturated noise, waves, or one colour; uint8 [H, W, 3]."""
    generator = np.random.default_rng(rng.randrange(1 << 30))
    kind = rng.randrange(4)
    if kind == 0:
        pixels = generator.integers(0, 256, (height, width, 3))
    elif kind == 1:
        pixels = generator.integers(0, 2, (height, width, 3)) * 255
    elif kind == 2:
        y, x = np.mgrid[:height, :width]
        waves = [9 * x + y, 250 - 5 * y, 128 + 120 * np.sin(x / 3 + y / 5)]
        pixels = np.stack(waves, axis=2) + generator.normal(0, 9, (height, width, 3))
    else:
        pixels = np.full((height, width, 3), generator.integers(0, 256, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def encode(pixels: np.ndarray, sampling: str | None, **options: Any) -> bytes:
    """A JPEG, grey without sampling."""
    image = Image.fromarray(pixels)
    if sampling is None:
        image = image.convert("L")
    else:
        options["subsampling"] = sampling
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def draw_jpeg(rng: random.Random, sides: tuple[int, int]) -> bytes:
    """Any kind that Pillow writes; sides are its least and greatest."""
    options: dict[str, Any] = {"quality": rng.choice((1, 100, rng.randint(1, 100)))}
    options |= rng.choice(
        (
            {},
            {"optimize": True},
            {"restart_marker_blocks": rng.randint(1, 9)},
            {"restart_marker_rows": 1},
        )
    )
    pixels = picture(rng, rng.randint(*sides), rng.randint(*sides))
    return encode(pixels, rng.choice(SAMPLINGS), **options)


def draw_boxes(rng: random.Random, height: int, width: int) -> Iterator[Box]:
    """The whole picture, its last pixel, and windows (top, left, height, width)."""
    yield 0, 0, height, width
    yield height - 1, width - 1, 1, 1
    for _ in range(3):
        rows, columns = rng.randint(1, height), rng.randint(1, width)
        yield (
            rng.randint(0, height - rows),
            rng.randint(0, width - columns),
            rows,
            columns,
        )


def both(data: bytes, box: Box) -> tuple[bytes | None, bytes | None]:
    """The pixels of a window by the own decoder, and by libjpeg."""
    decode = native.load().decode_window
    return decode(data, *box, False), decode(data, *box, True)


def is_narrow(data: bytes) -> bool:
    """Whether libjpeg does not smooth its chroma, if subsampled: left to libjpeg."""
    return native.load().header(data)[1] <= 4


@pytest.mark.parametrize("sides", [(1, 40), (40, 150)])
def test_gives_the_bytes_of_libjpeg(sides):
    rng = random.Random(0)
    for _ in range(250):
        data = draw_jpeg(rng, sides)
        height, width, _ = native.load().header(data)
        for box in draw_boxes(rng, height, width):
            own, expected = both(data, box)
            assert own == expected or (own is None and is_narrow(data))


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_windows_are_parts_of_the_whole_picture(sampling):
    data = encode(picture(random.Random(2), 53, 71), sampling, quality=90)
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    for top, left, height, width in draw_boxes(random.Random(3), 53, 71):
        own, _ = both(data, (top, left, height, width))
        part = whole[top : top + height, left : left + width]
        assert own == part.tobytes()


@pytest.mark.parametrize("name", ["n01440764_tench.JPEG", "n01443537_goldfish.JPEG"])
def test_photographs(name):
    data = sample_image(name)
    height, width, _ = native.load().header(data)
    for box in draw_boxes(random.Random(4), height, width):
        own, expected = both(data, box)
        assert own is not None
        assert own == expected


def test_leaves_other_files_to_libjpeg():
    pixels = picture(random.Random(5), 40, 40)
    box = (0, 0, 40, 40)
    progressive = encode(pixels, "4:4:4", progressive=True)
    rgb = encode(pixels, "4:4:4", keep_rgb=True)
    for data in (progressive, rgb):
        own, expected = both(data, box)
        assert own is None
        assert expected is not None
    cmyk = io.BytesIO()
    Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
    assert both(cmyk.getvalue(), box) == (None, None)
    assert both(b"", box) == (None, None)


def test_box_outside_the_picture():
    data = encode(picture(random.Random(6), 40, 40), "4:4:4")
    for box in ((0, 0, 41, 40), (0, 1, 40, 40), (-1, 0, 5, 5), (0, 0, 0, 5)):
        assert native.load().decode_window(data, *box, False) is None


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A damaged copy, with an end all the same: flips, cuts, insertions, markers."""
    file = bytearray(data[:-2])
    scan = file.index(b"\xff\xda")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(2, len(file) if rng.random() < 0.6 else scan + 12)
        change = rng.randrange(5)
        if change == 0:
            file[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            file[at] = rng.randrange(256)
        elif change == 2:
            file.insert(at, rng.choice((0, 255, rng.randrange(256))))
        elif change == 3:
            del file[at : at + rng.randint(1, 9)]
        else:
            file[at : at + 2] = bytes((255, rng.choice((0, 0xD0 + rng.randrange(10)))))
        scan = min(scan, len(file) - 12)
    return bytes(file) + b"\xff\xd9"


def test_damaged_files_are_decoded_as_by_libjpeg_or_left_to_it():
    rng = random.Random(7)
    originals = [draw_jpeg(rng, (5, 60)) for _ in range(50)]
    decoded = 0
    for i in range(500):
        data = mutate(rng, originals[i % len(originals)])
        header = native.load().header(data)
        if header is None or header[0] * header[1] > 1 << 22:
            continue
        own, expected = both(data, (0, 0, header[0], header[1]))
        assert own is None or own == expected
        decoded += own is not None
    assert decoded > 20
