"""Where labelled images come from, behind one string such as ``folder:PATH``.

A source is random access: record i, in any order, from any thread. That lets the
pipeline make the order a pure function of the step.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nfnets.data.embedded import open_digits, open_synthetic
from nfnets.data.folders import open_folder
from nfnets.data.hf_source import open_hf
from nfnets.data.inaturalist import open_inaturalist
from nfnets.data.source import Source, joined, part_of
from nfnets.data.tars import open_tar
from nfnets.data.tfds_source import open_tfds
from nfnets.errors import UserError, did_you_mean

SPLITS = ("train", "test", "whole_test", "holdout")
KINDS = (
    "digits",
    "folder:PATH",
    "tar:PATH",
    "hf:NAME_OR_PATH",
    "inat:PATH",
    "synthetic",
    "synthetic:COUNT",
    "tfds:NAME",
)
_WITH_CLASS_FOLDERS = ("folder", "tar")
_RUNS_ANYWHERE = "--config=digits runs anywhere"


def open_source(
    spec: str,
    split: str,
    *,
    class_map: str | None = None,
    num_classes: int | None = None,
    data_dir: str | None = None,
    holdout: float = 0,
) -> Source:
    """Opens one split of a data set; lists files, reads no image file.

    Args:
        spec: ``digits`` (scikit-learn's handwritten digits), ``folder:PATH`` (a
            folder per class, see :mod:`nfnets.data.folders`), ``tar:PATH`` (the same
            in a tar file, :mod:`nfnets.data.tars`), ``hf:NAME_OR_PATH[:CONFIG]``
            (Hugging Face, :mod:`nfnets.data.hf_source`), ``inat:PATH``
            (:mod:`nfnets.data.inaturalist`), ``synthetic`` or
            ``synthetic:COUNT`` (made-up images, COUNT for training), or
            ``tfds:NAME[/CONFIG][:VERSION][+SPLIT...]`` (see
            :mod:`nfnets.data.tfds_source`), whose labels are read from all its files
            the first time; it is trained on ``train`` and the splits named.
        split: ``train`` (all training records but those held out), ``holdout`` (the
            training records held out) or ``test``. Of folders, tars and Hugging Face
            data without a test split, a tenth is the test split and never trained on
            (:mod:`nfnets.data.held_out`); the source's ``note`` says so.
            ``whole_test`` takes them as a whole, as is right for data that only exist
            to be tested on.
        class_map: only for ``folder:`` and ``tar:``: a file that gives each folder its
            label; ``None`` numbers the folders by name.
        num_classes: labels the network has; ``None`` means as many as the data.
            More than the data has is allowed, fewer is an error.
        data_dir: only for ``tfds:``: where its data sets are, a path or ``gs://...``;
            ``None`` means ``$TFDS_DATA_DIR``, or ``~/tensorflow_datasets``.
        holdout: training records held out, their number or, below 1, their share. Of
            TFDS data the first ones, as in the official NFNet code; of others, which
            may be sorted by class, evenly spaced ones.

    Raises:
        UserError: unknown data set or split, missing or badly laid out files, or a
            label outside ``0..num_classes - 1``.
    """
    kind, _, argument = spec.partition(":")
    _check_options(spec, split, class_map, num_classes, data_dir, holdout)
    part = "train" if split == "holdout" else split
    if kind == "digits" and not argument:
        source = open_digits(part.removeprefix("whole_"))
    elif kind == "synthetic":
        source = open_synthetic(part.removeprefix("whole_"), argument, num_classes)
    elif kind == "folder":
        source = open_folder(argument, part, class_map)
    elif kind == "tar":
        source = open_tar(argument, part, class_map)
    elif kind == "hf":
        source = open_hf(argument, part)
    elif kind == "inat":
        source = open_inaturalist(argument, part.removeprefix("whole_"))
    elif kind == "tfds":
        tfds_part = part.removeprefix("whole_")
        parts = open_tfds(argument, tfds_part, data_dir)
        source = joined([Source(**vars(part)) for part in parts])
    else:
        kinds = did_you_mean(spec, KINDS)
        raise UserError(f"unknown data source {spec!r}; {kinds} ({_RUNS_ANYWHERE})")
    source = _with_classes(source, num_classes)
    if split.endswith("test"):
        return source
    count = holdout_count(holdout, len(source))
    return _hold_out(source, count, split, first=kind == "tfds")


def holdout_count(holdout: float, total: int) -> int:
    """Records that a ``holdout`` of ``total`` is: their number, or below 1 a share."""
    return int(holdout) if holdout >= 1 else round(holdout * total)


def _check_options(
    spec: str,
    split: str,
    class_map: str | None,
    num_classes: int | None,
    data_dir: str | None,
    holdout: float,
) -> None:
    """Refuses options that are wrong by themselves or mean nothing to the source."""
    kind = spec.partition(":")[0]
    if split not in SPLITS:
        raise UserError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if num_classes is not None and num_classes < 1:
        raise UserError(f"num_classes is {num_classes}; expected 1 or more")
    if class_map is not None and kind not in _WITH_CLASS_FOLDERS:
        raise UserError(
            f"class_map is {class_map!r}, but the data source {spec!r} has no class "
            "folders; leave it out or use folder:PATH or tar:PATH"
        )
    if data_dir is not None and kind != "tfds":
        raise UserError(
            f"data_dir is {data_dir!r}, but the data source {spec!r} is no TFDS data "
            "set; leave it out or use tfds:NAME"
        )
    is_number = holdout < 1 or holdout == int(holdout)
    if holdout < 0 or not is_number or (split == "holdout" and holdout == 0):
        raise UserError(
            f"holdout is {holdout:g}; expected the number of training records to hold "
            "out, 10000 in the official NFNet code, or below 1 their share"
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
