"""The sets that a network is tested on: its own test split, ImageNet-ReaL, -V2.

val is the test split of the run's data, or the images that are named instead; real has
the same images under ReaL's labels (``nfnets.data.real_labels``); v2 is ImageNet-V2
(Recht et al., arXiv 1902.10811), ten images of each class in folders 0 to 999.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from nfnets.data.real_labels import PUBLISHED, is_validation_name, real_images
from nfnets.data.sources import KINDS, Source, open_source, part_of
from nfnets.errors import UserError, did_you_mean
from nfnets.training.recipe import Recipe
from nfnets.training.run_data import open_split

SETS = ("val", "real", "v2")
_KINDS = {kind.partition(":")[0] for kind in KINDS}
_V2_FOLDER = "imagenetv2-matched-frequency-format-val"


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the sets are, as the command says.

    Attributes:
      val: a data source (docs/data.md) or the path of class folders, taken as a whole;
        None is the recipe's own ``eval.split``.
      real: path of ``real.json``; None takes the labels that val's records list.
      v2: as ``val``; needed for v2.
      data_dir: of ``tfds:`` sources; None takes the recipe's.
    """

    val: str | None = None
    real: str | None = None
    v2: str | None = None
    data_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Images to be tested on, all of which count.

    Attributes:
      name: one of ``SETS``.
      source: the images.
      image_labels: int32 [n, L], all labels of each, filled up with -1; None where
        each has the one of the source.
    """

    name: str
    source: Source
    image_labels: np.ndarray | None = None


def open_sets(
    names: Sequence[str],
    recipe: Recipe,
    places: Places,
    *,
    num_classes: int,
    log: Callable[[str], None],
) -> list[EvaluationSet]:
    """Opens sets, and says how many images each has.

    Args:
      names: some of ``SETS``.
      recipe: names val and how it is read; its ``data.num_classes`` may be None.
      places: what the command says instead.
      num_classes: K, of the network.
      log: is told the counts, beside the published ones where they differ.

    Raises:
      UserError: a set is unknown, not given, or not of K classes.
    """
    for name in names:
        if name not in SETS:
            raise UserError(f"unknown set {name!r}; {did_you_mean(name, SETS)}")
    several = [name for name in names if name != "val"]
    if recipe.data.label_sets is not None and several:
        raise UserError(
            f"the set {several[0]} is ImageNet-1k's, with labels of its own, but the "
            f"recipe has label sets (config.data.label_sets); evaluate val only"
        )
    val = None
    if "val" in names or "real" in names:
        val = _open_val(recipe, places, num_classes)
    sets = []
    for name in dict.fromkeys(names):
        if name == "v2":
            opened = EvaluationSet("v2", _open_v2(recipe, places, num_classes))
        elif name == "real":
            assert val is not None
            opened = _open_real(recipe, val, places.real, num_classes)
        else:
            assert val is not None
            opened = EvaluationSet("val", val)
        log(f"{name:8} {_describe(opened)}")
        sets.append(opened)
    return sets


def of_one_shape(sets: Sequence[EvaluationSet]) -> list[EvaluationSet]:
    """The same sets with tables of labels of equal width, if any set has a table.

    So the batches of all sets are alike, and one compiled step serves them all.
    """
    tables = [s.image_labels for s in sets if s.image_labels is not None]
    width = max((table.shape[1] for table in tables), default=0)

    def widened(one: EvaluationSet) -> EvaluationSet:
        labels = one.image_labels
        if labels is None:
            labels = one.source.labels.reshape(-1, 1)
        padding = ((0, 0), (0, width - labels.shape[1]))
        table = np.pad(labels, padding, constant_values=-1)
        return dataclasses.replace(one, image_labels=table)

    return [widened(one) for one in sets] if tables else list(sets)


def _open_val(recipe: Recipe, places: Places, num_classes: int) -> Source:
    if places.val is None:
        source = open_split(recipe, recipe.eval.split)
        return _checked(source, num_classes)
    spec = _as_source(places.val)
    class_map = None
    if spec.startswith(("folder:", "tar:")):
        class_map = recipe.data.class_map
    return _open(spec, recipe, places, num_classes, class_map=class_map)


def _open_real(
    recipe: Recipe, val: Source, path: str | None, num_classes: int
) -> EvaluationSet:
    indices, table = real_images(
        val, path, num_classes=num_classes, threads=recipe.data.threads
    )
    left_out = len(val) - len(indices)
    source = part_of(val, indices, f"{val.name}[without {left_out} of no ReaL label]")
    return EvaluationSet("real", source, table)


def _open_v2(recipe: Recipe, places: Places, num_classes: int) -> Source:
    if places.v2 is None:
        raise UserError(
            f"where ImageNet-V2 is, is not said; give --v2=PATH/{_V2_FOLDER}, or "
            f"--v2=tfds:imagenet_v2/matched-frequency"
        )
    source = _open(_as_source(places.v2), recipe, places, num_classes)
    for label, name in enumerate(source.class_names):
        if name.isdecimal() and int(name) != label:
            raise UserError(
                f"{source.name}: class {name} has the label {label}; V2's classes are "
                f"0 to {num_classes - 1}, so a folder is missing, or sorted as text"
            )
    return source


def _open(
    spec: str,
    recipe: Recipe,
    places: Places,
    num_classes: int,
    class_map: str | None = None,
) -> Source:
    """All of a source that only exists to be tested on."""
    data_dir = None
    if spec.startswith("tfds:"):
        data_dir = places.data_dir or recipe.data.data_dir
    source = open_source(
        spec,
        "whole_test",
        class_map=class_map,
        # With a map, a label is what it says; otherwise it follows from all classes.
        num_classes=num_classes if class_map is not None else None,
        data_dir=data_dir,
    )
    return _checked(source, num_classes)


def _checked(source: Source, num_classes: int) -> Source:
    if source.num_classes != num_classes:
        raise UserError(
            f"{source.name} has {source.num_classes} classes, the network "
            f"{num_classes}; evaluate it on its own classes, or, if the data are a "
            f"part of them, give each class its label: --config.data.num_classes="
            f"{num_classes} --config.data.class_map=FILE"
        )
    return source


def _as_source(text: str) -> str:
    """A data source as it is; a path as that of class folders."""
    return text if text.partition(":")[0] in _KINDS else f"folder:{text}"


def _describe(opened: EvaluationSet) -> str:
    """The count, and the published one where the set has one."""
    source = opened.source
    text = f"{source.name}: {len(source)} images"
    if source.note:
        text += f"; {source.note}"
    published = PUBLISHED[opened.name]
    if opened.name == "val" and not is_validation_name(source):
        return text  # of other data
    if len(source) == published:
        return f"{text}, as published"
    return f"{text}; the published set has {published}"
