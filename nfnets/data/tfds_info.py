"""What the JSON files of one TFDS data set version say: splits, shards and classes.

Copies made by older versions of TFDS, which wrote less into them, are read too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nfnets.data import storage
from nfnets.data.storage import FileStat
from nfnets.errors import UserError

FORMATS = ("array_record", "tfrecord")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@dataclass(frozen=True)
class Shard:
    """One file of a split: its name, its number of records, its size and stamp."""

    name: str
    records: int
    size: int
    stamp: str


@dataclass(frozen=True)
class Dataset:
    """One version of a data set on disk.

    Attributes:
        name: e.g. ``imagenet2012/5.1.0``.
        directory: the version's folder.
        file_format: one of ``FORMATS``.
        image_key: feature that holds the encoded image.
        label_key: feature that holds the label.
        all_labels_key: feature that holds all labels of an image, as in
            ``imagenet2012_real``; ``None`` where there is none.
        class_names: by label.
        splits: the shards of each split by TFDS's name, in order.
        prepare_command: makes it anew.
    """

    name: str
    directory: str
    file_format: str
    image_key: str
    label_key: str
    all_labels_key: str | None
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Shard, ...]]
    prepare_command: str

    def path(self, shard: Shard) -> str:
        """Where the shard is."""
        return storage.join(self.directory, shard.name)


def read_dataset(directory: str, name: str, prepare_command: str) -> Dataset:
    """Reads what there is to know before the records.

    Args:
        directory: the version's folder, a path or a URL.
        name: ``NAME[/CONFIG]/VERSION``.
        prepare_command: for messages: the command that makes the data set.

    Raises:
        UserError: files are missing or not as TFDS writes them.
    """
    info = _read_json(directory, "dataset_info.json", prepare_command)
    if info is None:
        raise UserError(
            f"{directory} has no dataset_info.json, so it is no finished TFDS data "
            f"set; remove it and run: {prepare_command}"
        )
    file_format = info.get("fileFormat") or "tfrecord"  # older ones do not say
    if file_format not in FORMATS:
        raise UserError(
            f"{directory} holds {file_format} files; expected {' or '.join(FORMATS)}: "
            f"build the data set again with file_format={FORMATS[0]}"
        )
    features = _read_json(directory, "features.json", prepare_command) or {}
    image_key, label_key, num_classes = _image_and_label(info, features, directory)
    files = storage.list_folder(directory)
    dataset = name.partition("/")[0]
    splits = {
        split["name"]: _shards(dataset, split, file_format, directory, files)
        for split in info.get("splits", [])
    }
    return Dataset(
        name=name,
        directory=directory,
        file_format=file_format,
        image_key=image_key,
        label_key=label_key,
        all_labels_key=_all_labels(features),
        class_names=_class_names(directory, label_key, num_classes),
        splits=splits,
        prepare_command=prepare_command,
    )


def _read_json(
    directory: str, name: str, prepare_command: str
) -> dict[str, Any] | None:
    """A JSON object; ``None`` where there is no such file."""
    path = storage.join(directory, name)
    try:
        value = json.loads(storage.read_file(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}); remove {directory} and run: "
            f"{prepare_command}"
        ) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, expected an object")
    return value


def _image_and_label(
    info: Mapping[str, Any], features: Mapping[str, Any], directory: str
) -> tuple[str, str, int | None]:
    """Names of the image and the label feature, and the number of classes."""
    pair = info.get("supervisedKeys", {})
    items = [item.get("featureKey") for item in pair.get("tuple", {}).get("items", [])]
    if len(items) != 2:  # older: {"input": ..., "output": ...}
        items = [pair.get("input"), pair.get("output")]
    known = features.get("featuresDict", {}).get("features")
    if known is None:  # an older layout: the records themselves are checked
        return items[0] or "image", items[1] or "label", None
    images = [name for name, kind in known.items() if "image" in kind]
    labels = [name for name, kind in known.items() if "classLabel" in kind]
    image = items[0] if items[0] in images else images[0] if len(images) == 1 else None
    label = items[1] if items[1] in labels else labels[0] if len(labels) == 1 else None
    if image is None or label is None:
        raise UserError(
            f"{directory}/features.json: which features are the image and the label is "
            f"not clear (images: {', '.join(images) or 'none'}; class labels: "
            f"{', '.join(labels) or 'none'}); image classification data has one of each"
        )
    count = known[label]["classLabel"].get("numClasses")
    return image, label, None if count is None else int(count)


def _all_labels(features: Mapping[str, Any]) -> str | None:
    """Name of the one feature that is a sequence of class labels, if any."""
    known = features.get("featuresDict", {}).get("features") or {}
    names = [
        name
        for name, kind in known.items()
        if "classLabel" in kind.get("sequence", {}).get("feature", {})
    ]
    return names[0] if len(names) == 1 else None


def _class_names(
    directory: str, label_key: str, num_classes: int | None
) -> tuple[str, ...]:
    path = storage.join(directory, f"{label_key}.labels.txt")
    try:
        lines = storage.read_file(path).decode("utf-8").splitlines()
    except FileNotFoundError as error:
        if num_classes is None:
            raise UserError(
                f"{directory} has neither {label_key}.labels.txt nor a number of "
                "classes in features.json; copy the data set again, with all its files"
            ) from error
        return tuple(f"class_{label}" for label in range(num_classes))
    names = tuple(line.strip() for line in lines if line.strip())
    if num_classes not in (None, len(names)):
        raise UserError(
            f"{path} has {len(names)} names, but features.json has {num_classes} "
            "classes; copy the data set again, with all its files"
        )
    return names


def _shards(
    dataset: str,
    split: Mapping[str, Any],
    file_format: str,
    directory: str,
    files: Mapping[str, FileStat],
) -> tuple[Shard, ...]:
    """The files of a split; all must be there, and no others of the split."""
    counts = [int(count) for count in split.get("shardLengths", [])]
    template = split.get("filepathTemplate") or _TEMPLATE
    names = [
        _shard_name(template, dataset, split["name"], file_format, index, len(counts))
        for index in range(len(counts))
    ]
    missing = [name for name in names if name not in files]
    if missing:
        raise UserError(
            f"{directory} lacks {missing[0]} ({len(missing)} of {len(names)} shards of "
            f"{split['name']} are missing); copy the data set again"
        )
    prefix = f"{dataset}-{split['name']}.{file_format}-"
    others = sorted({n for n in files if n.startswith(prefix)} - set(names))
    if others:
        raise UserError(
            f"{directory} has {others[0]}, which dataset_info.json does not know "
            f"({len(others)} such files); remove what does not belong there"
        )
    return tuple(
        Shard(name, count, files[name].size or 0, files[name].stamp)
        for name, count in zip(names, counts, strict=True)
    )


def _shard_name(
    template: str, dataset: str, split: str, file_format: str, index: int, count: int
) -> str:
    try:
        return template.format(
            DATASET=dataset,
            SPLIT=split,
            FILEFORMAT=file_format,
            SHARD_INDEX=f"{index:05d}",
            NUM_SHARDS=f"{count:05d}",
            SHARD_X_OF_Y=f"{index:05d}-of-{count:05d}",
        )
    except (AttributeError, LookupError, ValueError) as error:
        raise UserError(
            f"dataset_info.json of {dataset}: the file name template {template!r} is "
            f"not known; expected {_TEMPLATE}"
        ) from error
