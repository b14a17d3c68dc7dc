"""iNaturalist as released: labels by category id, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nfnets.data.sources import open_source
from nfnets.errors import UserError

# As in train2019.json: ids are no positions, and the lists are in no order.
CATEGORIES = [{"id": 7, "name": "Rana"}, {"id": 2, "name": "Bufo"}]
TRAIN = {31: 7, 30: 2, 45: 7}  # category by image
VALIDATION = {99: 7}


def write_split(path: Path, name: str, category_of: dict[int, int]) -> None:
    images = []
    for image in category_of:
        file = path / f"train_val2019/Amphibians/{image}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), image).save(file)
        images.append({"id": image, "file_name": str(file.relative_to(path))})
    annotations = [
        {"id": 1000 + image, "image_id": image, "category_id": category}
        for image, category in reversed(category_of.items())
    ]
    contents = {
        "images": images,
        "annotations": annotations,
        "categories": CATEGORIES,
    }
    (path / f"{name}2019.json").write_text(json.dumps(contents))


@pytest.fixture
def inat(tmp_path: Path) -> Path:
    write_split(tmp_path, "train", TRAIN)
    write_split(tmp_path, "val", VALIDATION)
    return tmp_path


def refused(message: str, path: Path | str, split: str = "train") -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_source(f"inat:{path}", split)
    assert "\n" not in str(caught.value)


def test_images_have_the_label_of_their_annotation(inat: Path):
    for split, expected in (("train", TRAIN), ("test", VALIDATION)):
        source = open_source(f"inat:{inat}", split)
        assert source.class_names == ("Bufo", "Rana")
        assert source.labels.tolist() == [[2, 7].index(c) for c in expected.values()]
        for index, image in enumerate(expected):
            assert abs(float(source.read(index).mean()) - image) <= 1
            assert source.describe(index).endswith(f"Amphibians/{image}.jpg")


def test_what_is_missing_is_named(inat: Path):
    refused("expected a local folder", "")
    refused(
        "has no train.*json; expected PATH/train<year>.json", inat / "train_val2019"
    )
    (inat / "train_val2019/Amphibians/31.jpg").unlink()
    refused("Amphibians/31.jpg is missing; expected", inat)
    (inat / "val2018.json").write_text("{}")
    refused("val2018.json, .*val2019.json; expected PATH/train<year>", inat, "test")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("[]", "is no JSON object; get it again"),
        ('{"images"', "cannot be read .*; get it again"),
        ("{}", "have no categories with id and name"),
    ],
)
def test_damaged_annotations(inat: Path, contents: str, message: str):
    (inat / "train2019.json").write_text(contents)
    refused(message, inat)


def test_images_without_annotation(inat: Path):
    """As the competitions' test2019.json has them."""
    file = inat / "val2019.json"
    contents = json.loads(file.read_text())
    del contents["annotations"][0]
    file.write_text(json.dumps(contents))
    refused(
        "test split: an image, its annotation or its category lacks 99", inat, "test"
    )
