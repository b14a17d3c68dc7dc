"""Decoding: exact where it should be, and a named refusal of everything damaged."""

from __future__ import annotations

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from nfnets.data.decode import MAX_PIXELS, DamagedImage, decode


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = np.sin(y / 7) + np.cos(x / 5)
    return np.stack([x * 4 % 256, y * 6 % 256, waves * 60 + 128], -1).astype(np.uint8)


def encode(image: np.ndarray, kind: str, mode: str = "RGB", **options) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).convert(mode).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_are_exact(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    out = decode(encode(picture(), kind, **options))
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, picture())


def test_jpeg_is_what_pillow_decodes(tmp_path):
    data = encode(picture(), "JPEG", quality=90)
    path = tmp_path / "named.png"  # the content decides, not the name
    path.write_bytes(data)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    difference = decode(path).astype(int) - expected
    assert np.abs(difference).max() <= 1  # two builds of libjpeg may round apart


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_is_repeated(kind):
    out = decode(encode(picture(), kind, mode="L"))
    assert out.shape == (40, 60, 3)
    assert (out == out[..., :1]).all()


def test_cmyk_has_pillows_colours():
    data = encode(picture(), "JPEG", mode="CMYK", quality=95)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(decode(data), np.asarray(expected))


def test_transparency_is_dropped():
    image = Image.fromarray(picture()).convert("P")
    out = io.BytesIO()
    image.save(out, "PNG", transparency=bytes(range(256)))
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(out.getvalue()), expected)


def test_without_simplejpeg_pillow_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    data = encode(picture(), "JPEG")
    expected = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(decode(data), np.asarray(expected))
    with pytest.raises(DamagedImage):
        decode(data[: len(data) // 2])


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"")


def jpeg_that_promises(width: int, height: int) -> bytes:
    data = bytearray(encode(picture(), "JPEG"))
    start = data.index(b"\xff\xc0")  # frame header: length, bits, height, width
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


JPEG = encode(picture(200, 200), "JPEG", quality=95)
DAMAGED = {
    "empty": (b"", "empty"),
    "zeros": (bytes(5000), "only zero bytes"),
    "text": (b"<html>404 not found</html>", "not a JPEG.*<html>"),
    "truncated": (JPEG[: len(JPEG) // 2], "Premature end"),
    "no end marker": (JPEG[:-2], "Premature end"),
    "header only": (JPEG[:50], "header"),
    "zeros inside": (JPEG[:3000] + bytes(2000) + JPEG[5000:], "Corrupt JPEG"),
    "truncated png": (encode(picture(), "PNG")[:-200], "truncated|broken"),
    "huge jpeg": (jpeg_that_promises(65500, 65500), "65500x65500 pixels"),
    "huge png": (png_header(9000, 9000), "9000x9000 pixels"),
    "vast png": (png_header(60000, 60000), "pixels"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_named(case, tmp_path):
    data, reason = DAMAGED[case]
    path = tmp_path / "broken.jpg"
    path.write_bytes(data)
    with pytest.raises(DamagedImage, match=reason) as caught:
        decode(str(path))
    assert str(path) in str(caught.value)
    assert caught.value.record == str(path)
    assert "\n" not in str(caught.value)


def test_missing_file_is_damage_too(tmp_path):
    with pytest.raises(DamagedImage, match="No such file"):
        decode(tmp_path / "gone.jpg")


def test_limit_is_64_megapixels():
    assert MAX_PIXELS == 67_108_864


def test_missing_decoder_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"pip install 'nfnets-flax\[train\]'"):
        decode(png_header(4, 4))
