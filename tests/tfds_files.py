"""Writes small data sets as TFDS lays them out, without TFDS: protobuf by hand."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nfnets.data.tfrecord import masked_crc32c

CLASSES = ("ant", "bee", "cat", "dog", "eel")


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers as 64-bit two's complement.

    ``protobuf.dev/programming-guides/encoding``.
    """
    value %= 2**64
    out = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def message(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


Value = bytes | int | float | Sequence[int]


def feature(value: Value) -> bytes:
    """A Feature with one value of its type, or with a packed list of integers."""
    if isinstance(value, list):
        packed = b"".join(varint(number) for number in value)
        return message(3, message(1, packed) if packed else b"")
    if isinstance(value, bytes):
        return message(1, message(1, value))
    if isinstance(value, float):
        return message(2, message(1, struct.pack("<f", value)))
    return message(3, message(1, varint(value)))


def entry(name: str, content: bytes) -> bytes:
    """A map entry of Features."""
    return message(1, message(1, name.encode()) + message(2, content))


def example(features: Mapping[str, Value]) -> bytes:
    """A serialized tf.train.Example, features in the given order."""
    entries = [entry(name, feature(value)) for name, value in features.items()]
    return message(1, b"".join(entries))


def frame(record: bytes) -> bytes:
    """A record as TFRecord stores it."""
    length = struct.pack("<Q", len(record))
    crc = (struct.pack("<I", masked_crc32c(part)) for part in (length, record))
    return length + next(crc) + record + next(crc)


def jpeg(grey: int, kind: str = "JPEG") -> bytes:
    """A picture of one shade, which survives the compression."""
    out = io.BytesIO()
    Image.new("RGB", (10, 8), (grey, grey, grey)).save(out, kind)
    return out.getvalue()


def shade(number: int) -> int:
    """The grey of record ``number`` of a data set of :func:`records`."""
    return (7 * number + 3) % 256


def records(count: int, first: int = 0) -> list[bytes]:
    """Record i has label i modulo the number of classes, and its own shade."""
    made = []
    for number in range(first, first + count):
        features: dict[str, bytes | int] = {
            "file_name": f"picture_{number}.jpg".encode(),
            "image": jpeg(shade(number)),
            "label": number % len(CLASSES),
        }
        names = list(features) if number % 2 else list(reversed(features))
        made.append(example({name: features[name] for name in names}))
    return made


def write_shard(path: Path, shard: Sequence[bytes], file_format: str) -> None:
    """One file of either format."""
    if file_format == "tfrecord":
        path.write_bytes(b"".join(frame(record) for record in shard))
        return
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in shard:
        writer.write(record)
    writer.close()


def write_dataset(
    data_dir: Path,
    splits: Mapping[str, Sequence[Sequence[bytes]]],
    file_format: str = "tfrecord",
    name: str = "pets",
    version: str = "1.0.0",
) -> Path:
    """Writes a data set; returns the version's folder.

    ``splits`` holds the shards of each split, and these their records.
    """
    folder = data_dir / name / version
    folder.mkdir(parents=True)
    dataset = name.partition("/")[0]
    info = {"name": dataset, "version": version, "fileFormat": file_format}
    info["splits"] = []
    for split, shards in splits.items():
        lengths = [str(len(shard)) for shard in shards]
        info["splits"].append({"name": split, "shardLengths": lengths})
        for index, shard in enumerate(shards):
            place = f"{index:05d}-of-{len(shards):05d}"
            path = folder / f"{dataset}-{split}.{file_format}-{place}"
            write_shard(path, shard, file_format)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    known = {
        "image": {"image": {"encodingFormat": "jpeg"}},
        "label": {"classLabel": {"numClasses": str(len(CLASSES))}},
        "file_name": {"text": {}},
    }
    features = {"featuresDict": {"features": known}}
    (folder / "features.json").write_text(json.dumps(features))
    (folder / "label.labels.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def shade_of(image: np.ndarray) -> float:
    """The mean shade of a decoded picture."""
    return float(image.mean())
