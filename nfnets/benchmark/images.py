"""The JPEGs that all variants read, in each container that one of them needs."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfnets.data.decode import image_kind
from nfnets.data.tfrecord import masked_crc32c
from nfnets.errors import UserError

# Below a directory of write_containers: the TFDS data set and the plain files.
TFDS_NAME = "jpegs"
TFRECORD = f"{TFDS_NAME}/1.0.0/{TFDS_NAME}-train.tfrecord-00000-of-00001"
FOLDER = "files"

# Width and height of made-up images: on average 469x402, as the real ones.
_SIZES = (*[(500, 375)] * 5, *[(500, 333)] * 2, *[(375, 500)] * 2)
_SIZES += ((333, 500), (400, 300), (640, 480))
_QUALITY = 95
_NOISE = 9.0  # standard deviation; gives about 110 KB per image, as the real ones
_FULL_CHROMA_OF_4 = 3  # three quarters are 4:4:4, the rest 4:2:0


def read_images(path: str) -> list[bytes]:
    """The JPEG files of a tar or below a folder, sorted by name; others are left out.

    Raises:
        UserError: no such file, no tar, or no JPEG in it.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(file for file in place.rglob("*") if file.is_file())
        contents = [file.read_bytes() for file in files]
    else:
        contents = _read_tar(place)
    images = [data for data in contents if image_kind(data) == "jpeg"]
    if not images:
        raise UserError(f"{path} holds no JPEG files; expected a folder or tar of them")
    return images


def _read_tar(path: Path) -> list[bytes]:
    try:
        with tarfile.open(path) as archive:
            members = sorted(archive.getmembers(), key=lambda member: member.name)
            files = [archive.extractfile(member) for member in members]
            return [file.read() for file in files if file is not None]
    except (OSError, tarfile.TarError) as error:
        raise UserError(f"{path}: {error}; expected a folder or tar of JPEGs") from None


def make_images(count: int) -> list[bytes]:
    """Made-up JPEGs of ImageNet's usual sizes and bytes: waves of colour plus noise."""
    return [_make_image(number) for number in range(count)]


def _make_image(number: int) -> bytes:
    from PIL import Image

    rng = np.random.default_rng(number)
    width, height = _SIZES[number % len(_SIZES)]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    channels = []
    for _ in range(3):
        fy, fx, phase = rng.uniform(0, 0.05, 3)
        channels.append(128 + 80 * np.sin(fy * y + fx * x + 100 * phase))
    pixels = np.stack(channels, -1) + rng.normal(0, _NOISE, (height, width, 1))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    chroma = "4:4:4" if number % 4 < _FULL_CHROMA_OF_4 else "4:2:0"
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY, subsampling=chroma)
    return out.getvalue()


def describe_images(images: Sequence[bytes], origin: str) -> dict[str, Any]:
    """What a report says of them: a hash of all bytes, counts and means.

    Raises:
        UserError: a file whose header cannot be read.
    """
    from PIL import Image

    total = hashlib.sha256()
    sizes = []
    for number, data in enumerate(images):
        total.update(hashlib.sha256(data).digest())
        try:
            with Image.open(io.BytesIO(data)) as image:
                sizes.append(image.size)
        except OSError as error:
            raise UserError(f"{origin}: JPEG number {number}: {error}") from error
    width, height = np.mean(sizes, axis=0)
    return {
        "origin": origin,
        "sha256": total.hexdigest()[:16],
        "count": len(images),
        "mean_width": round(float(width)),
        "mean_height": round(float(height)),
        "mean_bytes": round(float(np.mean([len(data) for data in images]))),
    }


def write_containers(images: Sequence[bytes], directory: Path) -> None:
    """Writes plain files, and a TFDS data set of one TFRecord file."""
    folder = directory / FOLDER
    folder.mkdir(parents=True)
    for number, data in enumerate(images):
        (folder / f"{number:06d}.jpg").write_bytes(data)
    record_file = directory / TFRECORD
    record_file.parent.mkdir(parents=True)
    with open(record_file, "wb") as file:
        for data in images:
            file.write(_frame(_example(data, 0)))
    split = {"name": "train", "shardLengths": [str(len(images))]}
    info = {"name": TFDS_NAME, "version": "1.0.0", "fileFormat": "tfrecord"}
    _write_json(record_file.with_name("dataset_info.json"), {**info, "splits": [split]})
    known = {
        "image": {"image": {"encodingFormat": "jpeg"}},
        "label": {"classLabel": {"numClasses": "1"}},
    }
    features = {"featuresDict": {"features": known}}
    _write_json(record_file.with_name("features.json"), features)
    record_file.with_name("label.labels.txt").write_text("image\n")


def image_files(directory: str) -> list[str]:
    """The plain files that :func:`write_containers` made there."""
    return sorted(str(path) for path in (Path(directory) / FOLDER).iterdir())


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _example(image: bytes, label: int) -> bytes:
    """A tf.train.Example of ``image`` and ``label`` (see nfnets.data.tf_example)."""
    values = {
        b"image": _field(1, _field(1, image)),  # BytesList
        b"label": _field(3, _field(1, _varint(label))),  # Int64List, packed
    }
    entries = (_field(1, _field(1, k) + _field(2, v)) for k, v in values.items())
    return _field(1, b"".join(entries))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _frame(record: bytes) -> bytes:
    length = struct.pack("<Q", len(record))
    head = length + struct.pack("<I", masked_crc32c(length))
    return head + record + struct.pack("<I", masked_crc32c(record))
