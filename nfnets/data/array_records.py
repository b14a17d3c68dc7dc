"""array_record files: random access by number, through the ``array_record`` package.

The package checks a hash of what it reads, so flipped bits raise.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from nfnets.data.decode import missing_extra
from nfnets.data.tf_example import MalformedRecord

# No read-ahead and no threads of its own: best for single records at random.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER_BYTES = 2**15
_BATCH = 64  # records read at once when reading all of them


def read_all(path: str) -> Iterator[bytes]:
    """Every record in order; a MalformedRecord names the first that is damaged."""
    reader = _open(path)
    position = 0
    try:
        if not reader.ok():
            raise MalformedRecord("its end is damaged or cut off")
        count = reader.num_records()
        for position in range(0, count, _BATCH):
            yield from reader.read(position, min(position + _BATCH, count))
    except RuntimeError as error:
        raise MalformedRecord(
            f"damaged at or after record {position}: {' '.join(str(error).split())}"
        ) from error


def make_reader(paths: list[str]) -> Callable[[int, int], bytes]:
    """Random access to the records of several files.

    Args:
        paths: the files.

    Returns:
        ``(number of the file, number of the record in it) -> bytes``; safe in threads;
        raises MalformedRecord.
    """

    @functools.lru_cache(maxsize=_max_open_files())
    def open_shard(number: int) -> tuple[Any, threading.Lock]:
        return _open(paths[number]), threading.Lock()

    def read(number: int, record: int) -> bytes:
        reader, lock = open_shard(number)
        try:
            with lock:  # older versions of the package need it
                return reader.read([record])[0]
        except RuntimeError as error:
            raise MalformedRecord(" ".join(str(error).split())) from error

    return read


def _open(path: str) -> Any:
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise missing_extra(
            "array_record", "reading array_record files (Linux and macOS only)"
        ) from error
    return array_record_module.ArrayRecordReader(
        path, options=_OPTIONS, file_reader_buffer_size=_BUFFER_BYTES
    )


def _max_open_files() -> int:
    """Files that one split keeps open: ImageNet has 1024, often the process's limit.

    Opening one again costs about 0.1 ms.
    """
    import resource

    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit == resource.RLIM_INFINITY:
        return 4096
    return max(16, min(4096, soft_limit // 4))
