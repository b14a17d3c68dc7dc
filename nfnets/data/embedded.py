"""Data sets that need no files: scikit-learn's digits, and made-up images."""

from __future__ import annotations

import numpy as np

from nfnets.data.decode import missing_extra
from nfnets.data.source import Source
from nfnets.errors import UserError

_SPLITS = ("train", "test")
_DIGITS_TEST_IMAGES = 360
_SYNTHETIC_SIZE = 256
_SYNTHETIC_TRAIN_IMAGES = 1280
_SYNTHETIC_CLASSES = 1000


def open_digits(split: str) -> Source:
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
    )[_SPLITS.index(split)]
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


def open_synthetic(split: str, argument: str, num_classes: int | None) -> Source:
    """Made-up images with a faint pattern per class, so that a loss can fall.

    Image i of a split is a function of i alone, its label is ``i % num_classes``.
    The test split has a fifth of the training images. There are 1000 classes where
    ``num_classes`` is ``None``.
    """
    num_classes = num_classes or _SYNTHETIC_CLASSES
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
    noise = np.random.default_rng((index, 1 + _SPLITS.index(split))).bytes(
        size * size * 3
    )
    image = np.frombuffer(noise, np.uint8).reshape(size, size, 3) >> 1  # 0..127
    side = size // cells
    blocks = image.reshape(cells, side, cells, side, 3)
    blocks += pattern.astype(np.uint8)[:, None, :, None]
    return image
