"""Where labelled images come from, behind one string such as ``folder:PATH``.

A source is random access: record i, in any order, from any thread. That lets the
pipeline make the order a pure function of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nfnets.data import folders, storage
from nfnets.data.decode import decode, missing_extra
from nfnets.data.tfds_source import open_tfds
from nfnets.errors import UserError, did_you_mean

SPLITS = ("train", "test", "holdout")
KINDS = ("digits", "folder:PATH", "synthetic", "synthetic:COUNT", "tfds:NAME")
_RUNS_ANYWHERE = "--config=digits runs anywhere"

_DIGITS_TEST_IMAGES = 360
_SYNTHETIC_SIZE = 256
_SYNTHETIC_TRAIN_IMAGES = 1280
_SYNTHETIC_CLASSES = 1000


@dataclass(frozen=True)
class Source:
    """Labelled images with random access.

    Attributes:
        name: the data set and the split, for logs.
        class_names: one name per label; its length is the number of classes.
        labels: int32 ``[n]``, each inside ``0..num_classes - 1``.
        read: index -> uint8 RGB ``[H, W, 3]``, which the caller must not write to;
            safe in threads; raises :class:`~nfnets.data.decode.DamagedImage`.
        describe: index -> the record's name for messages, e.g. its path.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], np.ndarray]
    describe: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Labels are ``0..num_classes - 1``."""
        return len(self.class_names)


def open_source(
    spec: str,
    split: str,
    *,
    class_map: str | None = None,
    num_classes: int | None = None,
    data_dir: str | None = None,
    holdout: int = 0,
) -> Source:
    """Opens one split of a data set; lists files, reads no image file.

    Args:
        spec: ``digits`` (scikit-learn's handwritten digits), ``folder:PATH`` (a
            folder per class, see :mod:`nfnets.data.folders`), ``synthetic`` or
            ``synthetic:COUNT`` (made-up images, COUNT for training), or
            ``tfds:NAME[/CONFIG][:VERSION]`` (see :mod:`nfnets.data.tfds_source`),
            whose labels are read from all its files the first time.
        split: ``train`` (all training records but those held out), ``holdout`` (the
            training records held out) or ``test``.
        class_map: only for ``folder:``: a file that gives each folder its label;
            ``None`` numbers the folders by name.
        num_classes: labels the network has; ``None`` means as many as the data.
            More than the data has is allowed, fewer is an error.
        data_dir: only for ``tfds:``: where its data sets are, a path or ``gs://...``;
            ``None`` means ``$TFDS_DATA_DIR``, or ``~/tensorflow_datasets``.
        holdout: training records held out. Of TFDS data the first ones, as in the
            official NFNet code; of others, which may be sorted by class, evenly
            spaced ones.

    Raises:
        UserError: unknown data set or split, missing or badly laid out files, or a
            label outside ``0..num_classes - 1``.
    """
    kind, _, argument = spec.partition(":")
    _check_options(spec, split, class_map, num_classes, data_dir, holdout)
    part = "test" if split == "test" else "train"
    if kind == "digits" and not argument:
        source = _open_digits(part)
    elif kind == "synthetic":
        source = _open_synthetic(part, argument, num_classes or _SYNTHETIC_CLASSES)
    elif kind == "folder":
        source = _open_folder(argument, part, class_map)
    elif kind == "tfds":
        source = Source(**vars(open_tfds(argument, part, data_dir)))
    else:
        kinds = did_you_mean(spec, KINDS)
        raise UserError(f"unknown data source {spec!r}; {kinds} ({_RUNS_ANYWHERE})")
    source = _with_classes(source, num_classes)
    if split == "test":
        return source
    return _hold_out(source, holdout, split, first=kind == "tfds")


def _check_options(
    spec: str,
    split: str,
    class_map: str | None,
    num_classes: int | None,
    data_dir: str | None,
    holdout: int,
) -> None:
    """Refuses options that are wrong by themselves or mean nothing to the source."""
    kind = spec.partition(":")[0]
    if split not in SPLITS:
        raise UserError(f"split is {split!r}; expected train, test or holdout")
    if num_classes is not None and num_classes < 1:
        raise UserError(f"num_classes is {num_classes}; expected 1 or more")
    if class_map is not None and kind != "folder":
        raise UserError(
            f"class_map is {class_map!r}, but the data source {spec!r} has no class "
            "folders; leave it out or use folder:PATH"
        )
    if data_dir is not None and kind != "tfds":
        raise UserError(
            f"data_dir is {data_dir!r}, but the data source {spec!r} is no TFDS data "
            "set; leave it out or use tfds:NAME"
        )
    if holdout < 0 or (split == "holdout" and holdout == 0):
        raise UserError(
            f"holdout is {holdout}; expected the number of training records to hold "
            "out, 10000 in the official NFNet code"
        )


def _hold_out(source: Source, count: int, split: str, *, first: bool) -> Source:
    """The records held out, or the rest.

    Args:
        source: all training records.
        count: records to hold out.
        split: ``holdout`` or ``train``.
        first: take the first records rather than evenly spaced ones.
    """
    total = len(source)
    if count == 0:
        return source
    if count >= total:
        raise UserError(
            f"holdout is {count}, but {source.name} has {total} records; expected fewer"
        )
    held = np.arange(count) if first else np.arange(count) * total // count
    if split == "holdout":
        return part_of(source, held, f"{source.name}[holdout {count}]")
    rest = np.setdiff1d(np.arange(total), held, assume_unique=True)
    return part_of(source, rest, f"{source.name}[without {count}]")


def part_of(source: Source, indices: np.ndarray, name: str) -> Source:
    """Some records of a source, in the given order."""
    return replace(
        source,
        name=name,
        labels=source.labels[indices],
        read=lambda index: source.read(int(indices[index])),
        describe=lambda index: source.describe(int(indices[index])),
    )


def _with_classes(source: Source, num_classes: int | None) -> Source:
    """Checks every label against the number of classes, and fills up the names."""
    count = source.num_classes if num_classes is None else num_classes
    outside = np.flatnonzero((source.labels < 0) | (source.labels >= count))
    if outside.size:
        first = int(outside[0])
        if source.labels[first] < 0:
            advice = "the record is unlabelled; use a split with labels"
        else:
            fitting = max(source.num_classes, int(source.labels.max()) + 1)
            advice = f"set num_classes to {fitting} or more"
        raise UserError(
            f"{source.name}: label {source.labels[first]} of {source.describe(first)} "
            f"is outside 0..{count - 1} ({outside.size} such records); {advice}"
        )
    names = source.class_names[:count]
    names += tuple(f"class_{i}" for i in range(len(names), count))
    return replace(source, class_names=names)


def _open_digits(split: str) -> Source:
    """1797 handwritten digits of 8x8 pixels that come with scikit-learn.

    The split is stratified, 1437 for training and 360 for the test, and always the
    same: it does not depend on the training seed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise missing_extra("scikit-learn", "the digits data set") from error
    data = load_digits()
    indices = train_test_split(
        np.arange(len(data.target)),
        test_size=_DIGITS_TEST_IMAGES,
        stratify=data.target,
        random_state=0,
    )[SPLITS.index(split)]
    indices = np.sort(indices)
    grey = np.rint(data.images[indices] * (255 / 16)).astype(
        np.uint8
    )  # 0..16 -> 0..255
    images = np.repeat(grey[..., None], 3, axis=-1)  # [n, 8, 8, 3]
    images.flags.writeable = False
    return Source(
        name=f"digits/{split}",
        class_names=tuple(str(digit) for digit in range(10)),
        labels=data.target[indices].astype(np.int32),
        read=lambda index: images[index],
        describe=lambda index: f"digits image {indices[index]}",
    )


def _open_synthetic(split: str, argument: str, num_classes: int) -> Source:
    """Made-up images with a faint pattern per class, so that a loss can fall.

    Image i of a split is a function of i alone, its label is ``i % num_classes``.
    The test split has a fifth of the training images.
    """
    if argument and not (argument.isdecimal() and int(argument) > 0):
        raise UserError(
            f"data source 'synthetic:{argument}': expected a number of training "
            "images above 0, as in synthetic:1280"
        )
    count = int(argument) if argument else _SYNTHETIC_TRAIN_IMAGES
    if split == "test":
        count = max(1, count // 5)
    return Source(
        name=f"synthetic/{split}",
        class_names=tuple(f"class_{label}" for label in range(num_classes)),
        labels=(np.arange(count) % num_classes).astype(np.int32),
        read=lambda index: synthetic_image(index, index % num_classes, split),
        describe=lambda index: f"synthetic {split} image {index}",
    )


def synthetic_image(index: int, label: int, split: str) -> np.ndarray:
    """Noise over an 8x8 colour pattern of the class.

    Returns:
        uint8 ``[256, 256, 3]``; equal arguments give equal pixels.
    """
    cells, size = 8, _SYNTHETIC_SIZE
    pattern = np.random.default_rng((label, 0)).integers(0, 128, (cells, cells, 3))
    noise = np.random.default_rng((index, 1 + SPLITS.index(split))).bytes(
        size * size * 3
    )
    image = np.frombuffer(noise, np.uint8).reshape(size, size, 3) >> 1  # 0..127
    side = size // cells
    blocks = image.reshape(cells, side, cells, side, 3)
    blocks += pattern.astype(np.uint8)[:, None, :, None]
    return image


def _open_folder(path: str, split: str, class_map: str | None) -> Source:
    if storage.is_url(path):
        raise UserError(
            f"data source 'folder:{path}': folders are read from local disks only; "
            "copy it to one, or use tfds: with data_dir=gs://..."
        )
    listing = folders.list_folder(path, split, class_map)
    paths = listing.paths
    return Source(
        name=f"folder:{path}/{split}",
        class_names=listing.class_names,
        labels=listing.labels,
        read=lambda index: decode(paths[index]),
        describe=lambda index: paths[index],
    )
