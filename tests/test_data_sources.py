"""Sources: what is in them, and one clear line for everything that is not."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nfnets.data.decode import DamagedImage
from nfnets.data.embedded import synthetic_image
from nfnets.data.held_out import held_out
from nfnets.data.sources import Source, open_source
from nfnets.errors import UserError


def write_images(folder: Path, classes: dict[str, list[str]]) -> None:
    """Small pictures, each of one colour that is a function of its path."""
    for name, files in classes.items():
        (folder / name).mkdir(parents=True)
        for file in files:
            colour = sum(f"{name}/{file}".encode()) % 256
            Image.new("RGB", (6, 4), (colour, 0, 0)).save(folder / name / file)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_images(tmp_path / "train", {"dog": ["b.png", "a.JPG"], "cat": ["c.jpeg"]})
    write_images(tmp_path / "test", {"cat": ["x.webp"], "dog": ["y.bmp"]})
    return tmp_path


def refused(message: str, spec: str | Path, split: str = "train", **options) -> None:
    """Checks the message of the UserError, and that it is one line."""
    spec = f"folder:{spec}" if isinstance(spec, Path) else spec
    with pytest.raises(UserError, match=message) as caught:
        open_source(spec, split, **options)
    assert "\n" not in str(caught.value)


def test_digits_is_scikit_learns_with_a_fixed_stratified_split():
    from sklearn.datasets import load_digits

    train, test = open_source("digits", "train"), open_source("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.class_names == tuple("0123456789")
    assert train.labels.dtype == np.int32
    # Stratified: each class has a fifth of its images in the test split.
    counts = np.bincount(load_digits().target)
    assert np.abs(np.bincount(test.labels) - counts * 360 / 1797).max() < 1
    assert (np.bincount(test.labels) + np.bincount(train.labels) == counts).all()
    # 0..16 -> 0..255, grey in three channels, and no image twice.
    names = [train.describe(i) for i in range(len(train))]
    names += [test.describe(i) for i in range(len(test))]
    assert len(set(names)) == 1797
    for source in (train, test):
        for index in (0, 100, len(source) - 1):
            original = int(source.describe(index).split()[-1])
            image = source.read(index)
            expected = np.round(load_digits().images[original] * 255 / 16)
            assert image.shape == (8, 8, 3)
            assert image.dtype == np.uint8
            for channel in range(3):
                np.testing.assert_array_equal(image[..., channel], expected)
            assert source.labels[index] == load_digits().target[original]


def test_digits_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        open_source("digits", "test").read(0)[0, 0] = 1


def test_synthetic_is_a_function_of_the_index():
    source = open_source("synthetic", "train")
    assert (len(source), source.num_classes) == (1280, 1000)
    assert source.labels[[0, 999, 1000]].tolist() == [0, 999, 0]
    image = source.read(7)
    assert image.shape == (256, 256, 3)
    np.testing.assert_array_equal(image, open_source("synthetic", "train").read(7))
    assert not np.array_equal(image, source.read(8))
    assert not np.array_equal(image, open_source("synthetic", "test").read(7))
    small = open_source("synthetic:50", "test", num_classes=3)
    assert (len(small), small.num_classes) == (10, 3)


def test_synthetic_classes_can_be_told_apart():
    """The nearest class mean of training images finds the class of test images."""

    def cells(index: int, label: int, split: str) -> np.ndarray:
        image = synthetic_image(index, label, split).astype(float)
        return image.reshape(8, 32, 8, 32, 3).mean(axis=(1, 3)).ravel()

    means = np.stack([cells(label, label, "train") for label in range(10)])
    for label in range(10):
        distance = np.linalg.norm(means - cells(label + 10, label, "test"), axis=1)
        assert distance.argmin() == label


def test_folder_is_sorted_by_class_and_file(tree: Path):
    train, test = (open_source(f"folder:{tree}", split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 1]
    assert train.labels.dtype == np.int32
    names = [str(Path(train.describe(i)).relative_to(tree)) for i in range(3)]
    assert names == ["train/cat/c.jpeg", "train/dog/a.JPG", "train/dog/b.png"]
    image = train.read(2)
    assert image.shape == (4, 6, 3)
    assert image[0, 0].tolist() == [sum(b"dog/b.png") % 256, 0, 0]
    assert test.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["val", "validation"])
def test_validation_folder_is_the_test_split(tree: Path, name: str):
    (tree / "test").rename(tree / name)
    assert len(open_source(f"folder:{tree}", "test")) == 2


def test_other_files_and_hidden_ones_do_not_count(tree: Path):
    (tree / "train" / "cat" / "notes.txt").write_text("x")
    (tree / "train" / "cat" / "._c.jpeg").write_text("x")
    (tree / "train" / ".cache").mkdir()
    (tree / "train" / "cat" / "more").mkdir()
    Image.new("RGB", (4, 4)).save(tree / "train" / "cat" / "more" / "z.jpg")
    train = open_source(f"folder:{tree}", "train")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.describe(1).endswith("more/z.jpg")


def test_damaged_file_is_found_when_read(tree: Path):
    (tree / "train" / "cat" / "c.jpeg").write_bytes(b"")
    source = open_source(f"folder:{tree}", "train")
    with pytest.raises(DamagedImage, match=r"cat/c\.jpeg: the file is empty"):
        source.read(0)


@pytest.mark.parametrize(
    ("file", "text", "names", "labels"),
    [
        ("map.txt", "# order of the paper\ndog\ncat\n", ("dog", "cat"), [1, 0, 0]),
        ("map.txt", "cat 2\ndog 0\n", ("dog", "class_1", "cat"), [2, 0, 0]),
        ("map.txt", "cat 0\ndog 0\n", ("cat",), [0, 0, 0]),
        ("map.json", '["dog", "cat"]', ("dog", "cat"), [1, 0, 0]),
        ("map.json", '{"cat": 1, "dog": 0}', ("dog", "cat"), [1, 0, 0]),
    ],
)
def test_class_map(tree: Path, file: str, text: str, names, labels):
    (tree / file).write_text(text)
    source = open_source(f"folder:{tree}", "train", class_map=str(tree / file))
    assert source.class_names == names
    assert source.labels.tolist() == labels


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("map.txt", "cat\n", r"train/dog is not in the class map"),
        ("map.txt", "cat\ncat\ndog\n", "'cat' twice"),
        ("map.txt", "cat 0\ndog\n", "line 'dog' has no label"),
        ("map.txt", "cat -1\ndog 0\n", "label -1 of 'cat' is outside 0"),
        ("map.txt", "cat 99999999\ndog 0\n", "label 99999999 of 'cat' is outside"),
        ("map.txt", "\n", "is empty"),
        ("map.json", "{cat: 1}", "Expecting property name"),
        ("map.json", '{"cat": "one"}', "entry 'cat': 'one'"),
        ("map.json", '["cat", "cat"]', "twice"),
        ("map.json", "3", "is a int"),
    ],
)
def test_bad_class_map_is_named(tree: Path, file: str, text: str, message: str):
    (tree / file).write_text(text)
    refused(message, tree, class_map=str(tree / file))


def test_missing_class_map_is_named(tree: Path):
    refused("class map /no/map.txt: No such file", tree, class_map="/no/map.txt")
    refused("has no class folders", "digits", class_map="/no/map.txt")


def test_unknown_source_lists_the_kinds():
    refused(r"unknown data source 'digit'; did you mean digits", "digit")
    refused("known: digits, folder:PATH, hf:.*tar:PATH.*config=digits", "xyz:abc")
    refused("unknown data source 'digits:5'", "digits:5")
    refused("split is 'val'; expected one of train, test, w", "digits", split="val")
    refused("'synthetic:ten': expected a number", "synthetic:ten")
    refused("num_classes is 0; expected 1 or more", "digits", num_classes=0)


@pytest.mark.parametrize("spec", ["digits", "synthetic:50"])
def test_holdout_and_training_part_make_up_the_training_split(spec: str):
    whole = open_source(spec, "train", num_classes=10)
    held = open_source(spec, "holdout", num_classes=10, holdout=17)
    rest = open_source(spec, "train", num_classes=10, holdout=17)
    assert (len(held), len(rest)) == (17, len(whole) - 17)
    expected = {whole.describe(i): i for i in range(len(whole))}
    for part in (held, rest):
        for index in range(0, len(part), 5):
            original = expected[part.describe(index)]
            assert part.labels[index] == whole.labels[original]
            np.testing.assert_array_equal(part.read(index), whole.read(original))
    names = [part.describe(i) for part in (held, rest) for i in range(len(part))]
    assert sorted(names) == sorted(expected)
    # In order, and evenly spaced: data may be sorted by class.
    places = np.array([expected[held.describe(i)] for i in range(17)])
    steps = np.diff([*places, len(whole)])
    assert places[0] == 0
    assert steps.max() - steps.min() <= 1
    # The test split is the same with and without.
    test = open_source(spec, "test", num_classes=10, holdout=17)
    assert len(test) == len(open_source(spec, "test", num_classes=10))


def test_a_holdout_below_one_is_a_share():
    """1437 digits are trained on; EfficientNetV2's code keeps 20 files of 1024."""
    held = open_source("digits", "holdout", holdout=20 / 1024)
    assert len(held) == 28  # 1437 * 20 / 1024 = 28.07
    assert len(open_source("digits", "train", holdout=20 / 1024)) == 1437 - 28


def test_holdout_must_leave_records_to_train_on(tree: Path):
    refused("holdout is 3, but .*/train has 3 records; expected fewer", tree, holdout=3)
    refused("holdout is 0; expected", "digits", split="holdout")
    refused("holdout is -1; expected", "digits", holdout=-1)
    refused(r"holdout is 1\.5; expected", "digits", holdout=1.5)
    held = open_source(f"folder:{tree}", "holdout", holdout=1)
    assert held.describe(0).endswith("cat/c.jpeg")


def test_data_dir_belongs_to_tfds(tree: Path):
    refused("data_dir is '/x', but .* is no TFDS data set", tree, data_dir="/x")


def test_folders_are_read_from_local_disks():
    refused(
        "'folder:gs://bucket/x': folders are read from local", "folder:gs://bucket/x"
    )


def test_missing_folder_says_how_to_lay_out_data(tmp_path: Path):
    refused(
        "does not exist; download.*PATH/train/<class>.*--config=digits", tmp_path / "x"
    )
    refused("names no path", "folder:")


def test_folder_layouts_that_are_not_clear_are_refused(tmp_path: Path):
    refused("has no class folders; expected PATH/train/<class>", tmp_path)
    write_images(tmp_path, {"cat": ["a.png"]})
    refused("has only the class folder cat; expected", tmp_path)
    (tmp_path / "test").mkdir()
    refused("has no folder train, but test; expected PATH/train/<class>", tmp_path)
    (tmp_path / "train").mkdir()
    refused("train has no class folders", tmp_path)
    (tmp_path / "val").mkdir()
    refused("folders test and val.*keep one", tmp_path)


def test_the_folder_above_a_data_set_is_refused(tree: Path):
    above = tree / "above"
    above.mkdir()
    for split in ("train", "test"):
        (tree / split).rename(above / split)
    refused(f"above looks like a data set of its own; use folder:{above}", tree)


@pytest.mark.parametrize("below", ["", "train"])
def test_without_a_test_split_a_tenth_is_held_out(tmp_path: Path, below: str):
    files = {name: [f"{i:03}.png" for i in range(100)] for name in ("cat", "dog")}
    write_images(tmp_path / below, files)
    train, test = (
        open_source(f"folder:{tmp_path}", split) for split in ("train", "test")
    )
    assert train.class_names == test.class_names == ("cat", "dog")
    assert len(train) + len(test) == 200
    assert 10 <= len(test) <= 30
    names = [{s.describe(i) for i in range(len(s))} for s in (train, test)]
    assert not names[0] & names[1]
    assert "held-out" in test.name
    assert re.match(rf"the data have no test split: {len(test)} of 200", test.note)
    assert train.note == test.note
    # The rest of the training images can be held out further.
    kept = open_source(f"folder:{tmp_path}", "train", holdout=20)
    held = open_source(f"folder:{tmp_path}", "holdout", holdout=20)
    assert len(kept) == len(train) - 20
    assert not {held.describe(i) for i in range(20)} & names[1]


def test_an_explicit_test_split_has_no_note(tree: Path):
    assert open_source(f"folder:{tree}", "test").note == ""


def test_one_image_a_class_cannot_be_evaluated(tmp_path: Path):
    write_images(tmp_path, {"cat": ["a.png"], "dog": ["b.png"]})
    refused("one image a class and no test split", tmp_path)


def test_held_out_is_a_tenth_of_every_class():
    labels = np.repeat(np.arange(5), (1, 2, 3, 30, 5000)).astype(np.int32)
    names = [f"{label}/{i}.jpg" for i, label in enumerate(labels)]
    chosen = held_out(names, labels)
    counts = np.bincount(labels[chosen], minlength=5)
    assert counts[0] == 0  # the only image of a class is trained on
    assert counts[1] == 1
    assert (counts[2:4] >= 1).all()
    assert abs(counts[4] - 500) < 100  # 4.7 standard deviations
    # The order of the records does not matter, the names do.
    back = held_out(names[::-1], labels[::-1])
    np.testing.assert_array_equal(back[::-1], chosen)
    # The first 8 bytes of the SHA-256 of the name, below a tenth of 2**64.
    for index in range(100, 200):
        draw = hashlib.sha256(names[index].encode()).hexdigest()[:16]
        assert chosen[index] == (int(draw, 16) < 2**64 / 10)


def test_added_images_do_not_move_the_others():
    """Else a network would later be evaluated on what it was trained on."""
    names = [f"cat/{i}.jpg" for i in range(400)]
    before = held_out(names[:200], np.zeros(200, np.int32))
    after = held_out(names[200:] + names[:200], np.zeros(400, np.int32))
    np.testing.assert_array_equal(after[200:], before)


def test_splits_need_the_same_classes(tree: Path):
    write_images(tree / "test", {"dogs": ["a.png"]})
    refused("test/dogs is not in .*train.*did you mean dog", tree, split="test")
    (tree / "test" / "dogs").rename(tree / "train" / "eel")
    refused("no class folder 'eel'", tree, split="test")


def test_empty_class_folder_is_named(tree: Path):
    (tree / "train" / "eel").mkdir()
    refused(r"train/eel has no images \(\.jpg", tree)


def test_label_out_of_range_names_the_record(tree: Path):
    refused(
        r"label 1 of .*train/dog/a\.JPG is outside 0\.\.0 \(2 such records\)",
        tree,
        num_classes=1,
    )
    refused("label 9 of digits image .* is outside 0..8", "digits", num_classes=9)
    wide = open_source(f"folder:{tree}", "train", num_classes=4)
    assert wide.class_names == ("cat", "dog", "class_2", "class_3")


def test_sources_are_frozen():
    source = open_source("synthetic:2", "train", num_classes=2)
    with pytest.raises(AttributeError):
        source.name = "other"
    assert isinstance(source, Source)
