"""iNaturalist as its competitions release it: JSON annotations beside the images.

``PATH`` holds ``train2019.json``, ``val2019.json`` and the folder that their file names
begin with, ``train_val2019``; likewise of 2017, 2018 and 2021
(github.com/visipedia/inat_comp). The categories' ids, in order, are the labels.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from nfnets.data import storage
from nfnets.data.decode import read_image_file
from nfnets.data.source import Source, of_files
from nfnets.errors import UserError

LAYOUT = (
    "expected PATH/train<year>.json and PATH/val<year>.json of one year, with the "
    "images unpacked beside them"
)


def open_inaturalist(path: str, split: str) -> Source:
    """Opens one split; reads the annotations, and no image.

    Args:
        path: the data set's folder, on a local disk.
        split: ``train``, or ``test``: the validation images, since labels of the
            competitions' test images were not released.

    Raises:
        UserError: a file is missing or is not such a list, or an image has no label.
    """
    if not path or storage.is_url(path):
        raise UserError(f"data source 'inat:{path}': expected a local folder; {LAYOUT}")
    path = os.path.expanduser(path)
    training = _annotations(path, "train")
    tested = training if split == "train" else _annotations(path, "val")
    names = _category_names(training)
    label_of = {category: label for label, category in enumerate(names)}
    try:
        category_of = {a["image_id"]: a["category_id"] for a in tested["annotations"]}
        files = [image["file_name"] for image in tested["images"]]
        labels = [label_of[category_of[image["id"]]] for image in tested["images"]]
        paths = [os.path.join(path, file) for file in files]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}, {split} split: an image, its annotation or its category lacks "
            f"{error}; expected the files of github.com/visipedia/inat_comp"
        ) from error
    if not paths or not os.path.exists(paths[0]):
        first = f"{paths[0]} is missing" if paths else f"no images of {split} in {path}"
        raise UserError(f"data source 'inat:{path}': {first}; {LAYOUT}")
    return of_files(
        f"inat:{path}/{split}",
        tuple(names.values()),
        np.array(labels, np.int32),
        encoded=lambda index: read_image_file(paths[index], paths[index]),
        describe=lambda index: paths[index],
        file_name=lambda index: os.path.basename(paths[index]),
    )


def _annotations(path: str, prefix: str) -> Mapping[str, Any]:
    """The contents of the one JSON file that begins so and goes on with a year."""
    pattern = os.path.join(glob.escape(path), prefix)
    found = sorted(glob.glob(f"{pattern}[0-9]*.json") + glob.glob(f"{pattern}.json"))
    if len(found) != 1:
        there = ", ".join(found) or f"{path} has no {prefix}*.json"
        raise UserError(f"data source 'inat:{path}': {there}; {LAYOUT}")
    try:
        with open(found[0], encoding="utf-8") as file:
            contents = json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{found[0]} cannot be read ({error}); get it again") from error
    if not isinstance(contents, dict):
        raise UserError(f"{found[0]} is no JSON object; get it again")
    return contents


def _category_names(annotations: Mapping[str, Any]) -> dict[int, str]:
    """Names by category id, in the order of these."""
    try:
        named = {int(c["id"]): str(c["name"]) for c in annotations["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the training annotations have no categories with id and name ({error}); "
            "expected the files of github.com/visipedia/inat_comp"
        ) from error
    return dict(sorted(named.items()))
