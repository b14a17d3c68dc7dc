"""ImageNet-ReaL's labels found by file name, and V2's folders numbered by number."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from tfds_files import example, jpeg, write_dataset

from nfnets.data.class_labels import in_order
from nfnets.data.decode import DamagedImage
from nfnets.data.real_labels import (
    PUBLISHED,
    is_validation_name,
    read_real,
    real_images,
)
from nfnets.data.source import Source
from nfnets.data.sources import open_source
from nfnets.errors import UserError

PUBLISHED_FILE = ROOT.parent / "shared" / "data" / "real.json"
# Lists of the images numbered 1 to 6; the second has none.
LISTS = [[3], [], [0, 2], [1], [4, 0, 1], []]


def image_name(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


@pytest.fixture
def lists(tmp_path: Path) -> str:
    path = tmp_path / "real.json"
    path.write_text(json.dumps(LISTS))
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images 1 to 6 in class folders, so that their order is not that of the lists."""
    classes = {6: "n01", 3: "n01", 5: "n02", 1: "n03", 2: "n03", 4: "n04"}
    for number, name in classes.items():
        path = tmp_path / "val" / name / image_name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return tmp_path / "val"


def opened(spec: object, **options):
    return open_source(str(spec), "whole_test", **options)


def found(source, path: str | None, num_classes: int = 5):
    """The labels by image number, as far as there are any."""
    indices, table = real_images(source, path, num_classes=num_classes, threads=2)
    assert (table.dtype, len(table)) == (np.int32, len(indices))
    names = [source.describe(int(index)) for index in indices]
    numbers = [int(name.partition("_val_")[2][:8]) for name in names]
    return {n: row[row >= 0].tolist() for n, row in zip(numbers, table, strict=True)}


WITH_LABELS = {1: [3], 3: [0, 2], 4: [1], 5: [4, 0, 1]}


def test_the_published_file(golden, tmp_path):
    """The whole file where it is at hand, otherwise its first lists."""
    want = golden("real_labels")
    assert PUBLISHED["real"] == want["lists"] - want["without_labels"]
    path = PUBLISHED_FILE
    if not path.exists():
        path = tmp_path / "real.json"
        path.write_text(json.dumps(want["first"]))
        want |= {"lists": 20, "without_labels": 1, "labels": 24, "most_labels": 2}
    found = read_real(str(path))
    assert found[:20] == want["first"]
    assert len(found) == want["lists"]
    assert sum(not labels for labels in found) == want["without_labels"]
    assert sum(map(len, found)) == want["labels"]
    assert max(map(len, found)) == want["most_labels"]


def test_labels_are_found_by_file_name(folder, lists):
    assert found(opened(f"folder:{folder}"), lists) == WITH_LABELS


def test_names_in_a_tar_and_with_the_class_in_them(folder, lists, tmp_path):
    path = tmp_path / "val.tar"
    with tarfile.open(path, "w") as archive:
        for file in sorted(folder.rglob("*.JPEG")):
            name = f"{file.stem}_n01440764{file.suffix}"  # as on Hugging Face
            archive.add(file, f"{file.parent.name}/{name}")
    assert found(opened(f"tar:{path}"), lists) == WITH_LABELS


def write_real_dataset(tmp_path: Path, file_format: str) -> str:
    """TFDS's imagenet2012_real: the features that it has, in another order of images.

    Bytes and features.json are as TFDS 4.9 writes them.
    """
    made = [
        example(
            {
                "file_name": image_name(number).encode(),
                "image": jpeg(number),
                "original_label": number % 5,
                "real_label": LISTS[number - 1],
            }
        )
        for number in (5, 2, 6, 1, 3, 4)
    ]
    folder = write_dataset(
        tmp_path, {"validation": [made]}, file_format, "imagenet2012_real"
    )
    label = {"classLabel": {"numClasses": "5"}}
    known = {
        "file_name": {"text": {}},
        "image": {"image": {"encodingFormat": "jpeg"}},
        "original_label": label,
        "real_label": {"sequence": {"feature": label, "length": "-1"}},
    }
    features = {"featuresDict": {"features": known}}
    (folder / "features.json").write_text(json.dumps(features))
    info = json.loads((folder / "dataset_info.json").read_text())
    keys = [{"featureKey": "image"}, {"featureKey": "real_label"}]
    info["supervisedKeys"] = {"tuple": {"items": keys}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "label.labels.txt").rename(folder / "original_label.labels.txt")
    return str(tmp_path)


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_tfds_lists_the_labels_itself(tmp_path, lists, file_format):
    data_dir = write_real_dataset(tmp_path, file_format)
    source = opened("tfds:imagenet2012_real", data_dir=data_dir)
    assert source.labels.tolist() == [0, 2, 1, 1, 3, 4]
    assert found(source, None) == WITH_LABELS
    assert found(source, lists) == WITH_LABELS
    assert source.read(4).mean() == 3  # the image of number 3


def refused(message: str, source, path: str | None, num_classes: int = 5) -> None:
    with pytest.raises(UserError, match=message) as caught:
        real_images(source, path, num_classes=num_classes, threads=1)
    assert "\n" not in str(caught.value)


def test_sources_without_names_or_labels(folder, lists):
    refused("digits/test has no file names", opened("digits"), lists)
    source = opened(f"folder:{folder}")
    refused("lists no ReaL labels; give --real=real.json", source, None)
    refused("labels of .*real.json are 0 to 4, but .* 4 classes", source, lists, 4)
    (folder / "n01" / image_name(3)).rename(folder / "n01" / "cat.JPEG")
    source = opened(f"folder:{folder}")
    refused("called 'cat.JPEG'; .*0001.JPEG to ..._00000006.J", source, lists)
    (folder / "n01" / "cat.JPEG").rename(folder / "n01" / image_name(7))
    refused("called 'ILSVRC2012_val_00000007", opened(f"folder:{folder}"), lists)


def test_an_image_that_is_there_twice(folder, lists):
    (folder / "n02" / image_name(4)).write_bytes(jpeg(4))
    refused("val_00000004 2 times", opened(f"folder:{folder}"), lists)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "has no list with entries"),
        ("[]", "has no list with entries"),
        ("[[1], 2]", "entry 2 is 2; expected real.json"),
        ("[[1], [true]]", r"entry 2 is \[True\]"),
        ('[["cat"]]', r"entry 1 is \['cat'\]"),
        ("[[1]", "expected real.json of google-research"),
        ("[[], [], [], [], [], []]", "none of the 6 images of .* has labels"),
        ("[[-1], [], [], [], [], []]", "labels of .* are -1 to -1"),
    ],
)
def test_mistakes_in_the_file(folder, tmp_path, content, message):
    path = tmp_path / "real.json"
    path.write_text(content)
    refused(message, opened(f"folder:{folder}"), str(path))


def test_a_missing_file(folder, tmp_path):
    source = opened(f"folder:{folder}")
    refused("x.json: No such file", source, str(tmp_path / "x.json"))


# V2: class folders that are numbers.


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Folders 0 to 11 with two images each, whose shade is ten times the number."""
    root = tmp_path / "v2"
    for number in range(12):
        (root / str(number)).mkdir(parents=True)
        for name in "ab":
            (root / str(number) / f"{name}.jpeg").write_bytes(jpeg(10 * number))
    return root


def shades(source) -> list[float]:
    return [float(source.read(index).mean()) for index in range(len(source))]


def test_numbered_folders_have_their_number_as_label(numbered, tmp_path):
    tar = tmp_path / "v2.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(numbered, "imagenetv2")
    for spec in (f"folder:{numbered}", f"tar:{tar}"):
        source = opened(spec)
        assert source.class_names == tuple(str(number) for number in range(12))
        assert len(source) == 24  # none held out
        assert sorted(set(source.labels.tolist())) == list(range(12))
        assert shades(source) == [10 * label for label in source.labels]


def test_numbered_folders_are_numbered_so_for_training_too(numbered):
    for split in ("train", "test"):
        source = open_source(f"folder:{numbered}", split)
        assert shades(source) == [10 * label for label in source.labels]


def test_names_are_numbers_only_if_all_are():
    assert in_order({"10", "9", "1"}) == ["1", "9", "10"]
    assert in_order({"010", "009", "9"}) == ["009", "9", "010"]
    assert in_order({"10", "9", "x"}) == ["10", "9", "x"]
    assert in_order({"n02", "n10", "n1"}) == ["n02", "n1", "n10"]
    assert in_order({"1", "²"}) == ["1", "²"]
    assert in_order({"-1", "1"}) == ["-1", "1"]


def test_the_whole_of_data_with_a_test_split_is_that(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / split / name / f"{i}.png").write_bytes(jpeg(9, "PNG"))
    assert len(opened(f"folder:{tmp_path}")) == 4
    assert len(opened("digits")) == 360


def test_a_damaged_first_record_is_one_line():
    def damaged(index: int) -> str:
        raise DamagedImage(f"record {index}", "it is cut")

    labels = np.zeros(1, np.int32)
    source = Source("made", ("cat",), labels, damaged, str, file_name=damaged)
    with pytest.raises(UserError, match="damaged evaluation image record 0: it is cut"):
        is_validation_name(source)
