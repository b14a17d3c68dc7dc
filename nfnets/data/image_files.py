"""Image files that somebody names one by one, by folder or by pattern: no labels."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nfnets.data import storage
from nfnets.data.decode import DamagedImage, read_image_file
from nfnets.data.folders import SUFFIXES, images_under
from nfnets.data.source import Source, of_files
from nfnets.errors import UserError


def find_images(places: Sequence[str]) -> list[str]:
    """The files, in the order of the places, each once.

    Args:
        places: files, of any name; folders, whose images are taken by their suffix,
            those of subfolders included, sorted by path; or patterns of either, such as
            ``photos/**/*.jpg``.

    Raises:
        UserError: a place has no image.
    """
    found: dict[str, None] = {}
    for place in places:
        if storage.is_url(place):
            raise UserError(
                f"{place}: images are read from local disks; copy it to one"
            )
        path = os.path.expanduser(place)
        whole = (
            [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))
        )
        if not whole:
            raise UserError(f"{place} does not exist, and no file matches it")
        files = []
        for match in whole:
            files += images_under(match) if os.path.isdir(match) else [match]
        if not files:
            raise UserError(f"{place} has no images ({', '.join(SUFFIXES)})")
        found |= dict.fromkeys(files)
    return list(found)


def open_images(paths: Sequence[str], damaged: dict[int, DamagedImage]) -> Source:
    """The files as a source whose labels are all 0.

    Args:
        paths: of the files.
        damaged: is filled, by index, with those that were read and could not be; a
            black pixel stands in their place.
    """
    strict = of_files(
        "image files",
        ("unknown",),
        np.zeros(len(paths), np.int32),
        encoded=lambda index: read_image_file(paths[index], paths[index]),
        describe=lambda index: paths[index],
        file_name=lambda index: os.path.basename(paths[index]),
    )

    def read(index: int) -> np.ndarray:
        try:
            return strict.read(index)
        except DamagedImage as error:
            damaged[index] = error
            return np.zeros((1, 1, 3), np.uint8)

    return replace(strict, read=read)
