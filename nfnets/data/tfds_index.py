"""The index of a TFDS split: all labels, and where the records of TFRecord files lie.

It is built once by reading the data, kept as one file beside them (or in the user's
cache where that place cannot be written to), and checked at each start. It is never
renewed silently: data that changed under a run are worth a question.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import mmap
import os
import sys
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from nfnets.data import array_records, storage
from nfnets.data.tf_example import Buffer, MalformedRecord, feature_spans, int_value
from nfnets.data.tfds_info import Dataset, Shard
from nfnets.data.tfrecord import walk_frames
from nfnets.errors import UserError

_VERSION = 1
_MAX_LABEL = 2**31 - 1
_LOCAL_THREADS, _REMOTE_THREADS = 16, 4  # remote shards are held in memory meanwhile

Log = Callable[[str], None]
Rows = tuple[list[int], list[int], list[int]]  # labels, offsets, lengths


@dataclass(frozen=True)
class Index:
    """Rows of all records of a split, in order.

    Attributes:
        labels: int32 ``[n]``.
        offsets: int64 ``[n]``, first byte of the record in its shard; ``[0]`` long
            for array_record, which finds records by number.
        lengths: int64 ``[n]`` of the records in bytes; likewise.
    """

    labels: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray


def print_to_stderr(message: str) -> None:
    """The log of those who give none."""
    print(message, file=sys.stderr, flush=True)


def load_index(dataset: Dataset, split: str, log: Log = print_to_stderr) -> Index:
    """Reads the split's index, or builds and keeps it where there is none.

    Args:
        dataset: the data set.
        split: TFDS's name of the split.
        log: is told when an index is built, which may take minutes.

    Raises:
        UserError: the index does not fit the data any more, or a shard is damaged.
    """
    places = index_paths(dataset, split)
    refusals = []
    for place in places:
        try:
            stored = storage.read_file(place)
        except FileNotFoundError:
            continue
        index, problem = _parse(stored, dataset, split)
        if index is not None:
            return index
        refusals.append((place, problem))
    if refusals:
        place, problem = refusals[0]
        raise UserError(
            f"the index {place} does not fit its data: {problem}; if the data are as "
            "they should be, delete that file and start again, which builds it anew, "
            f"or check the data too: {dataset.prepare_command}"
        )
    return build_index(dataset, split, log)


def index_paths(dataset: Dataset, split: str) -> tuple[str, str]:
    """Where the index may be: beside the data, and in the user's cache."""
    name = f"nfnets_index_{split}.npz"
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    directory = dataset.directory
    if not storage.is_url(directory):
        directory = os.path.realpath(directory)
    key = hashlib.sha256(directory.encode()).hexdigest()[:16]
    return (
        storage.join(dataset.directory, name),
        os.path.join(cache, "nfnets-flax", "index", key, name),
    )


def build_index(dataset: Dataset, split: str, log: Log = print_to_stderr) -> Index:
    """Builds the index from the records, and keeps it; see :func:`load_index`."""
    shards = dataset.splits[split]
    _check_readable(dataset)
    records = sum(shard.records for shard in shards)
    log(f"indexing {dataset.name} {split} once: {records} records, {len(shards)} files")
    remote = storage.is_url(dataset.directory)
    threads = min(len(shards), _REMOTE_THREADS if remote else _LOCAL_THREADS)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        rows = list(pool.map(lambda shard: _index_shard(dataset, shard), shards))
    index = Index(
        labels=_joined((labels for labels, _, _ in rows), np.int32),
        offsets=_joined((offsets for _, offsets, _ in rows), np.int64),
        lengths=_joined((lengths for _, _, lengths in rows), np.int64),
    )
    _save(index, dataset, split, log)
    return index


def _joined(lists: Iterable[list[int]], dtype: type) -> np.ndarray:
    return np.fromiter(itertools.chain.from_iterable(lists), dtype)


def _check_readable(dataset: Dataset) -> None:
    if dataset.file_format == "array_record" and storage.is_url(dataset.directory):
        raise UserError(
            f"{dataset.directory} holds array_record files, which are read from local "
            "disks only; copy the folder to one, or prepare the data set with "
            "--file_format=tfrecord and upload that"
        )


def _index_shard(dataset: Dataset, shard: Shard) -> Rows:
    path = dataset.path(shard)
    rows: Rows = ([], [], [])
    try:
        if dataset.file_format == "tfrecord":
            _walk_tfrecord(path, shard, dataset.label_key, rows)
        else:
            for record in array_records.read_all(path):
                _add_label(record, 0, len(record), dataset.label_key, rows)
        if len(rows[0]) != shard.records:
            raise MalformedRecord(
                f"it has {len(rows[0])} records, dataset_info.json says {shard.records}"
            )
    except (MalformedRecord, FileNotFoundError) as error:
        raise UserError(
            f"shard {path} is damaged: {error}; copy it again, or remove "
            f"{dataset.directory} and run: {dataset.prepare_command}"
        ) from error
    return rows


def _walk_tfrecord(path: str, shard: Shard, label_key: str, rows: Rows) -> None:
    """Adds a row for each record. Local images are passed over, not read."""
    if shard.size == 0:
        return
    if storage.is_url(path):
        _add_frames(storage.read_file(path), label_key, rows)
        return
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        _add_frames(data, label_key, rows)


def _add_frames(data: Buffer, label_key: str, rows: Rows) -> None:
    for offset, length in walk_frames(data):
        _add_label(data, offset, length, label_key, rows)
        rows[1].append(offset)
        rows[2].append(length)


def _add_label(
    data: Buffer, offset: int, length: int, label_key: str, rows: Rows
) -> None:
    try:
        spans = feature_spans(data, offset, offset + length)
        label = int_value(data, spans, label_key)
        if not -1 <= label <= _MAX_LABEL:
            raise MalformedRecord(f"label {label} is no class")
    except MalformedRecord as error:
        raise MalformedRecord(f"record {len(rows[0])}: {error}") from error
    rows[0].append(label)


def _description(dataset: Dataset, split: str) -> dict[str, Any]:
    """What an index belongs to."""
    return {
        "index_version": _VERSION,
        "dataset": dataset.name,
        "split": split,
        "label_key": dataset.label_key,
        "place": storage.scheme(dataset.directory),
        "shards": {
            shard.name: [shard.size, shard.records, shard.stamp]
            for shard in dataset.splits[split]
        },
    }


def _parse(stored: bytes, dataset: Dataset, split: str) -> tuple[Index | None, str]:
    """The index, or ``None`` and why it cannot be used."""
    try:
        with np.load(io.BytesIO(stored), allow_pickle=False) as arrays:
            then = json.loads(str(arrays["description"]))
            index = Index(*(arrays[name] for name in ("labels", "offsets", "lengths")))
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        RuntimeError,  # a damaged version or flag of the archive
        zipfile.BadZipFile,
    ) as error:
        return None, f"it is damaged ({error})"
    problem = _difference(then, _description(dataset, split))
    count = sum(shard.records for shard in dataset.splits[split])
    rows = count if dataset.file_format == "tfrecord" else 0
    if not problem and (
        index.labels.shape != (count,)
        or not index.offsets.shape == index.lengths.shape == (rows,)
    ):
        problem = "it has another number of records"
    return (None if problem else index), problem


def _difference(then: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed since the index was made, as a phrase; empty when nothing did."""
    for key in ("index_version", "dataset", "split", "label_key"):
        if then.get(key) != now[key]:
            return f"its {key} is {then.get(key)!r}, not {now[key]!r}"
    for name in [*now["shards"], *then["shards"]]:
        if name not in then["shards"]:
            return f"{name} is new"
        if name not in now["shards"]:
            return f"{name} is not there any more"
        old, new = then["shards"][name], now["shards"][name]
        if old[0] != new[0]:
            return f"{name} has {new[0]} bytes, it had {old[0]}"
        if old[1] != new[1]:
            return f"{name} has {new[1]} records by dataset_info.json, it had {old[1]}"
        # A copy to another kind of place has other stamps.
        if then.get("place") == now["place"] and old[2] != new[2]:
            return f"{name} was changed (or copied without its time) since"
    return ""


def _save(index: Index, dataset: Dataset, split: str, log: Log) -> None:
    stored = io.BytesIO()
    np.savez(
        stored,
        description=json.dumps(_description(dataset, split)),
        labels=index.labels,
        offsets=index.offsets,
        lengths=index.lengths,
    )
    beside, cache = index_paths(dataset, split)
    try:
        storage.write_file(beside, stored.getvalue())
        return
    except OSError:
        pass  # a place shared by many is often read-only
    try:
        os.makedirs(os.path.dirname(cache), exist_ok=True)
        storage.write_file(cache, stored.getvalue())
        log(f"kept the index in {cache}: {dataset.directory} cannot be written to")
    except OSError as error:
        log(f"the index could not be kept, each start builds it: {error}")
