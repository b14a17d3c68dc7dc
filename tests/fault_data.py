"""Small folders of images that fault tests train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat", "dog")


def write_noise_folder(root: Path, *, per_class: int, test_per_class: int) -> Path:
    """Class folders of 16 x 16 PNGs of noise, the same for the same numbers."""
    generator = np.random.default_rng(0)
    for split, count in (("train", per_class), ("test", test_per_class)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return root
