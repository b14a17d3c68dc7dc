"""One split of a TFDS data set as images with random access, without TensorFlow."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from nfnets.data import array_records, storage
from nfnets.data.decode import DamagedImage, decode
from nfnets.data.tf_example import (
    MalformedRecord,
    bytes_span,
    bytes_value,
    feature_spans,
    int_value,
    int_values,
)
from nfnets.data.tfds_index import Index, load_index
from nfnets.data.tfds_info import Dataset
from nfnets.data.tfds_layout import find_dataset, parse_name
from nfnets.errors import UserError

T = TypeVar("T")

# Features that name the record in the original data, the best first.
_NAME_KEYS = ("file_name", "filename", "image/filename", "id")

# Data sets whose test images have no labels.
_UNLABELLED_TEST = ("imagenet2012", "i_naturalist")


@dataclass(frozen=True)
class TfdsSplit:
    """Images and labels of one split in TFDS's order; see ``sources.Source``."""

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], np.ndarray]
    describe: Callable[[int], str]
    encoded: Callable[[int], memoryview]
    file_name: Callable[[int], str]
    all_labels: Callable[[int], Sequence[int]] | None


def open_tfds(text: str, split: str, data_dir: str | None) -> list[TfdsSplit]:
    """Opens what ``NAME[/CONFIG][:VERSION][+SPLIT...]`` trains on or is tested on.

    Args:
        text: the data set, and the splits to train on besides ``train``.
        split: ``train`` or ``test``, which may be TFDS's ``validation``.
        data_dir: a path or URL; ``None`` means ``$TFDS_DATA_DIR``, or
            ``~/tensorflow_datasets``.

    Raises:
        UserError: missing, half-finished or damaged, or its index does not fit.
    """
    wanted = parse_name(text, data_dir)
    dataset = find_dataset(wanted)
    names = [tfds_split(dataset, split)]
    if split == "train":
        names += _more_training(dataset, wanted.more_training)
    elif names[0] in wanted.more_training:
        raise UserError(
            f"data source 'tfds:{text}' trains on {names[0]}, but these are its test "
            f"images; leave out +{names[0]}"
        )
    return [open_split(dataset, name) for name in names]


def _more_training(dataset: Dataset, names: Sequence[str]) -> Sequence[str]:
    """Checks the splits that are trained on besides ``train``."""
    for i, name in enumerate(names):
        if name not in dataset.splits or name in ("train", *names[:i]):
            raise UserError(
                f"+{name}: expected splits of {dataset.directory} besides train, each "
                f"once; there: {', '.join(dataset.splits)}"
            )
    return names


def tfds_split(dataset: Dataset, split: str) -> str:
    """TFDS's name of our ``train`` or ``test``.

    Where the test images have no labels, and where TFDS has no ``test``, it is
    the ``validation`` split.
    """
    wanted: tuple[str, ...] = ("test", "validation")
    if split == "train":
        wanted = ("train",)
    elif dataset.name.startswith(_UNLABELLED_TEST):
        wanted = wanted[::-1]
    for name in wanted:
        if name in dataset.splits:
            return name
    advice = ""
    if split == "test" and "train" in dataset.splits:
        advice = (
            "; to evaluate on N images kept from training: --config.data.holdout=N "
            "--config.eval.split=holdout"
        )
    raise UserError(
        f"{dataset.directory} has no split {' or '.join(wanted)}; there: "
        f"{', '.join(dataset.splits) or 'none'}{advice}"
    )


def open_split(dataset: Dataset, split: str) -> TfdsSplit:
    """Opens a split by TFDS's name; builds its index where there is none."""
    index = load_index(dataset, split)
    read_record = _RecordReader(dataset, split, index)
    key = dataset.all_labels_key

    def title(number: int, record: bytes | None = None) -> str:
        shard = dataset.splits[split][read_record.shard_of(number)]
        original = "" if record is None else _original_name(record)
        where = f"{original}, {shard.name}" if original else shard.name
        return f"{dataset.name} {split} record {number} ({where})"

    def encoded(number: int) -> memoryview:
        record = None
        try:
            record = read_record(number)
            spans = feature_spans(record, 0, len(record))
            first, last = bytes_span(record, spans, dataset.image_key)
            label = int_value(record, spans, dataset.label_key)
            if label != index.labels[number]:
                raise MalformedRecord(
                    f"its label is {label}, the index has {index.labels[number]}"
                )
            return memoryview(record)[first:last]
        except MalformedRecord as error:
            raise DamagedImage(title(number, record), str(error)) from error

    def read(number: int) -> np.ndarray:
        image = encoded(number)
        try:
            return decode(image)
        except DamagedImage as error:
            raise DamagedImage(describe(number), error.reason) from error

    def describe(number: int) -> str:
        try:
            return title(number, read_record(number))
        except (MalformedRecord, UserError):
            return title(number)

    return TfdsSplit(
        f"tfds:{dataset.name}/{split}",
        dataset.class_names,
        index.labels,
        read,
        describe,
        encoded,
        file_name=_part_reader(read_record, title, _original_name),
        all_labels=None
        if key is None
        else _part_reader(read_record, title, lambda record: _integers(record, key)),
    )


def _part_reader(
    read_record: Callable[[int], bytes],
    title: Callable[[int], str],
    part_of: Callable[[bytes], T],
) -> Callable[[int], T]:
    """Reads something beside the image from a record; raises DamagedImage."""

    def read(number: int) -> T:
        try:
            return part_of(read_record(number))
        except MalformedRecord as error:
            raise DamagedImage(title(number), str(error)) from error

    return read


def _integers(record: bytes, key: str) -> Sequence[int]:
    return int_values(record, feature_spans(record, 0, len(record)), key)


class _RecordReader:
    """Serialized records by number; safe in threads; raises MalformedRecord."""

    def __init__(self, dataset: Dataset, split: str, index: Index):
        shards = dataset.splits[split]
        counts = (shard.records for shard in shards)
        self._starts = [0, *itertools.accumulate(counts)]
        self._paths = [dataset.path(shard) for shard in shards]
        self._index = index
        self._read_numbered = (
            array_records.make_reader(self._paths)
            if dataset.file_format == "array_record"
            else None
        )

    def shard_of(self, number: int) -> int:
        return bisect_right(self._starts, number) - 1

    def __call__(self, number: int) -> bytes:
        shard = self.shard_of(number)
        if self._read_numbered is not None:
            return self._read_numbered(shard, number - self._starts[shard])
        start = int(self._index.offsets[number])
        length = int(self._index.lengths[number])
        record = storage.read_range(self._paths[shard], start, start + length)
        if len(record) < length:
            raise MalformedRecord(f"the file ends {length - len(record)} bytes early")
        return record


def _original_name(record: bytes) -> str:
    """The image's name in the original data; empty where the record has none."""
    try:
        spans = feature_spans(record, 0, len(record))
        for key in _NAME_KEYS:
            if key in spans:
                name = bytes_value(record, spans, key)
                return name.decode("utf-8", "backslashreplace")
    except MalformedRecord:
        pass
    return ""
