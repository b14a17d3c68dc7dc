"""What is checked once, before and after a TFDS data set is built."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from nfnets.data import storage
from nfnets.data.decode import DamagedImage, missing_extra
from nfnets.data.tfds_index import build_index
from nfnets.data.tfds_info import Dataset
from nfnets.data.tfds_layout import TfdsName
from nfnets.data.tfds_source import TfdsSplit, open_split, tfds_split
from nfnets.errors import UserError

Log = Callable[[str], None]

# ILSVRC2012: images of TFDS's splits, and bytes of the official tars.
IMAGENET_IMAGES = {"train": 1281167, "validation": 50000}
_TRAIN_TAR, _VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
_IMAGENET_TARS = {
    "train": (_TRAIN_TAR, 147897477120),
    "validation": (_VALIDATION_TAR, 6744924160),
}
# Images per class of the full set: (fewest, most).
_IMAGENET_PER_CLASS = {"train": (732, 1300), "validation": (50, 50)}

_MAX_DAMAGED_TRAIN = 0.001  # the default of data.max_damaged
_DISK_FACTOR = 1.1  # of the tars: images are copied as they are, plus one bucket
_SHOWN = 5  # damaged images named on the screen
_BATCH = 256  # images handed to the threads at once
_SECONDS_PER_LINE = 30


def check_imagenet_tars(
    manual_dir: str | None, wanted: TfdsName, expected: Mapping[str, int]
) -> None:
    """Both tars are there and whole, and the disk has room for what they hold.

    A tar's size is compared with the official one where the official number of images
    is expected.
    """
    if manual_dir is None:
        raise UserError(
            "imagenet2012 is made from tars that you download: give "
            f"--manual_dir=DIR with {_TRAIN_TAR} and {_VALIDATION_TAR} "
            "(https://image-net.org/download-images, after registration)"
        )
    manual_dir = os.path.expanduser(manual_dir)
    needed = 0.0
    for split, (tar, official_size) in _IMAGENET_TARS.items():
        path = os.path.join(manual_dir, tar)
        if not os.path.isfile(path):
            raise UserError(
                f"{path} is missing; download {tar} from "
                "https://image-net.org/download-images (after registration) into "
                f"{manual_dir}"
            )
        size = os.path.getsize(path)
        if expected.get(split) == IMAGENET_IMAGES[split] and size != official_size:
            raise UserError(
                f"{path} has {size} bytes, the official file has {official_size}; "
                "download it again (a set of another size needs --num_train and "
                "--num_validation)"
            )
        needed += size * _DISK_FACTOR
    free = shutil.disk_usage(wanted.data_dir).free
    if free < needed:
        raise UserError(
            f"{wanted.data_dir} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} "
            "GB are needed; make room or give another --data_dir"
        )


def labelled_splits(dataset: Dataset) -> list[str]:
    """TFDS's names of the splits that ``train`` and ``test`` read."""
    return [tfds_split(dataset, split) for split in ("train", "test")]


def check_counts(dataset: Dataset, expected: Mapping[str, int]) -> None:
    """The splits have the numbers of records that are expected."""
    for split, count in expected.items():
        found = sum(shard.records for shard in dataset.splits.get(split, ()))
        if found != count:
            raise UserError(
                f"{dataset.directory}: {split} has {found} records, expected {count}: "
                "a download was cut off or is another one; get it again, remove that "
                f"folder and run again, or say --num_{split}={found} if that is right"
            )


def check_split(dataset: Dataset, split: str, threads: int, log: Log) -> list[str]:
    """Indexes a split anew, checks its labels and decodes all its images strictly.

    Returns:
        What is damaged in it: one line per image.
    """
    build_index(dataset, split, log)
    source = open_split(dataset, split)
    imagenet = dataset.name.partition("/")[0] == "imagenet2012"
    full = imagenet and len(source.labels) == IMAGENET_IMAGES[split]
    check_labels(source, split, per_class=full)
    return _damaged_images(source, threads, log)


def check_labels(source: TfdsSplit, split: str, *, per_class: bool) -> None:
    """Labels are classes; ``per_class``: as many of each as ImageNet has."""
    classes = len(source.class_names)
    outside = np.flatnonzero((source.labels < 0) | (source.labels >= classes))
    if outside.size:
        first = int(outside[0])
        raise UserError(
            f"{source.name}: label {source.labels[first]} of {source.describe(first)} "
            f"is outside 0..{classes - 1} ({outside.size} such records); build the "
            "data set again"
        )
    if not per_class:
        return
    fewest, most = _IMAGENET_PER_CLASS[split]
    counts = np.bincount(source.labels, minlength=classes)
    wrong = np.flatnonzero((counts < fewest) | (counts > most))
    if classes != 1000 or wrong.size:
        label = int(wrong[0]) if wrong.size else classes - 1
        raise UserError(
            f"{source.name}: class {source.class_names[label]} has {counts[label]} "
            f"images, ImageNet has {fewest} to {most} of each of 1000 classes; "
            f"{wrong.size} classes are wrong, so get the tars and build again"
        )


def _damaged_images(source: TfdsSplit, threads: int, log: Log) -> list[str]:
    """Decodes every image; the ``record: reason`` of those that are damaged."""
    _check_strict_decoder()

    def damage(index: int) -> str | None:
        try:
            source.read(index)
        except DamagedImage as error:
            return str(error)
        return None

    count = len(source.labels)
    damaged: list[str] = []
    with ThreadPoolExecutor(threads) as pool:
        for start in _with_progress(range(0, count, _BATCH), count, source.name, log):
            batch = range(start, min(start + _BATCH, count))
            damaged += [error for error in pool.map(damage, batch) if error is not None]
    log(f"{source.name}: decoded {count} images, {len(damaged)} damaged")
    return damaged


def _check_strict_decoder() -> None:
    """Pillow alone accepts some damaged files without a word."""
    try:
        import simplejpeg  # noqa: F401
    except ImportError as error:
        raise missing_extra("simplejpeg", "checking every image") from error


def _with_progress(starts: range, count: int, name: str, log: Log) -> Iterator[int]:
    """Counts images on a terminal's bar, elsewhere in a line every half minute."""
    import tqdm

    bar = tqdm.tqdm(
        total=count,
        desc=f"decoding {name}",
        unit=" images",
        disable=not sys.stderr.isatty(),
    )
    last = time.monotonic()
    with bar:
        for start in starts:
            yield start
            bar.update(min(_BATCH, count - start))
            if bar.disable and time.monotonic() - last > _SECONDS_PER_LINE:
                last = time.monotonic()
                log(f"decoding {name}: {start} of {count} images")


def report_damaged(
    damaged: Mapping[str, list[str]],
    records: Mapping[str, int],
    folder: str,
    log: Log,
) -> str | None:
    """Lists what is damaged, all of it in a file.

    Args:
        damaged: by split, a line for each damaged image.
        records: by split, how many there are.
        folder: where the list goes.
        log: is told the first of them.

    Returns:
        Why the data cannot be used as they are, or ``None``: training replaces a
        small share of damaged images, evaluation none.
    """
    path = os.path.join(folder, "nfnets_damaged.txt")
    lines = [line for split in damaged for line in damaged[split]]
    if lines:
        storage.write_file(path, "".join(f"{line}\n" for line in lines).encode())
    elif os.path.exists(path):
        os.remove(path)  # of an earlier check
    for line in lines[:_SHOWN]:
        log(f"damaged: {line}")
    for split, found in damaged.items():
        limit = int(_MAX_DAMAGED_TRAIN * records[split]) if split == "train" else 0
        if len(found) > limit:
            return (
                f"{len(found)} of {records[split]} {split} images are damaged, at most "
                f"{limit} may be (all in {path}); get the files again, remove the "
                "built folder and run this command again"
            )
    if lines:
        log(f"{len(lines)} damaged training images ({path}): training replaces them")
    return None
