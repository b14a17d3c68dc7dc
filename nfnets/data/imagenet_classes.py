"""The 1000 classes of ImageNet-1k by label: WordNet ids, and short English names.

Labels follow the sorted WordNet ids, as those of TFDS and of sorted class folders do. A
name is the first of its synset in WordNet 3.0, as ``LOC_synset_mapping.txt`` of the
challenge lists them; where two classes share it (crane, maillot), one that tells them
apart.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib import resources


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """WordNet id and name of each label, e.g. ("n01440764", "tench") of label 0."""
    file = resources.files("nfnets.data") / "imagenet_classes.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ", maxsplit=1) for line in lines)
    return tuple((wordnet_id, name) for wordnet_id, name in pairs)


def imagenet_names() -> tuple[str, ...]:
    """The 1000 short names by label."""
    return tuple(name for _, name in imagenet_classes())


def readable(class_names: Iterable[str]) -> tuple[str, ...]:
    """The same names, WordNet ids of ImageNet-1k replaced by their short names."""
    names = dict(imagenet_classes())
    return tuple(names.get(name, name) for name in class_names)
