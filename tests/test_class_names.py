"""What labels are called: ImageNet's names, those of a run, of its data, or numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tensorflow_datasets
from etils import epath
from helpers import tiny_recipe

from nfnets.data.imagenet_classes import imagenet_classes, imagenet_names, readable
from nfnets.training import workdir
from nfnets.training.class_names import class_names

# Facts of ImageNet-1k that are known everywhere.
KNOWN = {
    0: ("n01440764", "tench"),
    1: ("n01443537", "goldfish"),
    2: ("n01484850", "great white shark"),
    207: ("n02099601", "golden retriever"),
    281: ("n02123045", "tabby"),
    388: ("n02510455", "giant panda"),
    817: ("n04285008", "sports car"),
    948: ("n07742313", "Granny Smith"),
    999: ("n15075141", "toilet tissue"),
}


def test_imagenet_has_1000_classes_sorted_by_wordnet_id():
    ids = [wordnet_id for wordnet_id, _ in imagenet_classes()]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
    assert all(re.fullmatch(r"n\d{8}", wordnet_id) for wordnet_id in ids)
    assert len(set(imagenet_names())) == 1000
    assert {label: imagenet_classes()[label] for label in KNOWN} == KNOWN


def test_the_ids_are_those_of_tensorflow_datasets():
    root = Path(tensorflow_datasets.__file__).parent
    file = root / "image_classification" / "imagenet_resized_labels.txt"
    assert {i for i, _ in imagenet_classes()} == set(file.read_text().split())


def test_only_ids_of_imagenet_are_replaced():
    """As of a run on ten of its classes in folders (Imagenette)."""
    assert readable(["n01440764", "n99999999", "cat"]) == ("tench", "n99999999", "cat")


@pytest.mark.parametrize(
    ("source", "classes", "last", "note"),
    [
        ("tfds:imagenet2012/5.1.0", 1000, "toilet tissue", None),
        ("tfds:imagenet2012", 10, "9", "has 1000 classes, the network 10"),
        ("digits", 10, "9", None),
        ("folder:/nowhere", 3, "2", "/nowhere does not exist"),
        ("hf:someone/birds", 3, "2", "not fetched"),
    ],
)
def test_names_of_weights_without_a_run(source, classes, last, note):
    said: list[str] = []
    recipe = tiny_recipe(data__source=source)
    names = class_names(None, recipe, classes, said.append)
    assert (len(names), names[-1]) == (classes, last)
    assert [note in line for line in said] == ([True] if note else [])


def test_a_run_knows_its_classes_without_its_data(tmp_path):
    run = epath.Path(tmp_path)
    recipe = tiny_recipe(data__source="folder:/nowhere")
    workdir.keep_class_names(run, ("n01440764", "cow"))
    said: list[str] = []
    assert class_names(run, recipe, 2, said.append) == ("tench", "cow")
    assert said == []
