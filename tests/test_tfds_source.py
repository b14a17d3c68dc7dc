"""TFDS data sets read without TensorFlow: small ones, laid out by hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from tfds_files import (
    CLASSES,
    example,
    frame,
    jpeg,
    records,
    shade,
    shade_of,
    write_dataset,
)

from nfnets.data.decode import DamagedImage
from nfnets.data.sources import open_source
from nfnets.data.tfds_index import build_index, index_paths, load_index
from nfnets.data.tfds_layout import find_dataset, parse_name
from nfnets.errors import UserError

FORMATS = ("tfrecord", "array_record")
SPLITS = {
    "train": [records(5), records(4, first=5), records(2, first=9)],
    "validation": [records(3, first=100)],
    "test": [records(2, first=200)],
}
TRAIN = 11  # records


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """An empty user cache."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path


@pytest.fixture(params=FORMATS)
def data_dir(request, tmp_path: Path) -> Path:
    write_dataset(tmp_path, SPLITS, request.param)
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The version's folder of a TFRecord data set in ``tmp_path``."""
    return write_dataset(tmp_path, SPLITS)


def pets(data_dir: Path | str, split: str = "train", **options):
    return open_source("tfds:pets", split, data_dir=str(data_dir), **options)


def refused(message: str, data_dir: Path | str, spec="tfds:pets", **options) -> str:
    with pytest.raises(UserError, match=message) as caught:
        open_source(spec, "train", data_dir=str(data_dir), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_and_labels_belong_together_in_order(data_dir: Path):
    for split, first, count in (("train", 0, TRAIN), ("test", 200, 2)):
        source = pets(data_dir, split)
        assert source.class_names == CLASSES
        assert source.labels.dtype == np.int32
        assert source.labels.tolist() == [(first + i) % 5 for i in range(count)]
        for index in range(count):
            image = source.read(index)
            assert (image.shape, image.dtype) == ((8, 10, 3), np.uint8)
            assert abs(shade_of(image) - shade(first + index)) <= 1
            assert f"picture_{first + index}.jpg" in source.describe(index)


def test_description_names_split_record_and_shard(folder: Path, tmp_path: Path):
    shard = "pets-train.tfrecord-00001-of-00003"
    expected = f"pets/1.0.0 train record 6 (picture_6.jpg, {shard})"
    assert pets(tmp_path).describe(6) == expected
    assert pets(tmp_path, holdout=4).describe(2) == expected


def test_both_formats_give_the_same(tmp_path: Path):
    one, two = (
        pets(write_dataset(tmp_path / name, SPLITS, name).parents[1])
        for name in FORMATS
    )
    np.testing.assert_array_equal(one.labels, two.labels)
    for index in range(TRAIN):
        np.testing.assert_array_equal(one.read(index), two.read(index))


def test_threads_read_at_random(data_dir: Path):
    source = pets(data_dir)
    order = np.random.default_rng(0).integers(0, TRAIN, 600)
    with ThreadPoolExecutor(8) as pool:
        images = pool.map(source.read, map(int, order))
        assert all(
            abs(shade_of(image) - shade(int(index))) <= 1
            for image, index in zip(images, order, strict=True)
        )


def test_holdout_is_the_first_records(data_dir: Path):
    """As in the official NFNet code: VALID is the first 10000 of TFDS's train."""
    held, rest = pets(data_dir, "holdout", holdout=6), pets(data_dir, holdout=6)
    whole = pets(data_dir)
    assert (len(held), len(rest)) == (6, TRAIN - 6)
    for index in range(TRAIN):
        part, place = (held, index) if index < 6 else (rest, index - 6)
        assert part.describe(place) == whole.describe(index)
        assert part.labels[place] == whole.labels[index]
        np.testing.assert_array_equal(part.read(place), whole.read(index))
    assert len(pets(data_dir, "test", holdout=6)) == 2
    refused("holdout is 11, but .* has 11 records", data_dir, holdout=TRAIN)


def test_number_of_classes(data_dir: Path):
    message = refused(
        r"label 3 of pets/1\.0\.0 train record 3 .* is outside 0\.\.2 \(4 such",
        data_dir,
        num_classes=3,
    )
    assert "set num_classes to 5 or more" in message
    wide = pets(data_dir, num_classes=7)
    assert wide.class_names == (*CLASSES, "class_5", "class_6")


def test_unlabelled_records_are_refused(tmp_path: Path):
    unlabelled = example({"image": jpeg(1), "label": -1})
    write_dataset(tmp_path, {"train": [[*records(2), unlabelled]]})
    refused(r"label -1 of .* record 2 .*unlabelled; use a split with", tmp_path)


def test_the_test_split_is_test_or_validation(tmp_path: Path):
    """ImageNet's test images have no labels."""
    write_dataset(tmp_path, SPLITS)
    assert len(pets(tmp_path, "test")) == 2
    write_dataset(tmp_path, SPLITS, name="imagenet2012")
    source = open_source("tfds:imagenet2012", "test", data_dir=str(tmp_path))
    assert len(source) == 3
    others = {split: SPLITS[split] for split in ("train", "validation")}
    write_dataset(tmp_path / "a", others)
    assert len(pets(tmp_path / "a", "test")) == 3
    write_dataset(tmp_path / "b", {"train": SPLITS["train"]})
    with pytest.raises(
        UserError, match=r"no split test or validation; there: train; .*=holdout"
    ):
        pets(tmp_path / "b", "test")


def test_more_splits_to_train_on(data_dir: Path):
    """As Flowers-102 is used: trained on train and validation, 2040 images."""
    spec = "tfds:pets+validation"
    source = open_source(spec, "train", data_dir=str(data_dir))
    numbers = [*range(TRAIN), 100, 101, 102]
    assert source.labels.tolist() == [number % 5 for number in numbers]
    for index, number in enumerate(numbers):
        assert abs(shade_of(source.read(index)) - shade(number)) <= 1
        assert f"picture_{number}.jpg" in source.describe(index)
    assert "pets/1.0.0 validation record 2" in source.describe(TRAIN + 2)
    assert len(open_source(spec, "test", data_dir=str(data_dir))) == 2
    held = open_source(spec, "train", data_dir=str(data_dir), holdout=6)
    assert held.describe(TRAIN - 6) == source.describe(TRAIN)


def test_what_is_tested_on_is_not_trained_on(tmp_path: Path):
    write_dataset(tmp_path, SPLITS)
    unknown = r"\+valid: expected splits of .* each once; there: train, validation"
    refused(unknown, tmp_path, "tfds:pets+valid")
    refused(r"\+train: expected splits", tmp_path, "tfds:pets+train")
    two = "tfds:pets+validation+validation"
    refused(r"\+validation: expected splits", tmp_path, two)
    write_dataset(tmp_path, SPLITS, name="i_naturalist2018")
    spec = "tfds:i_naturalist2018+validation"
    with pytest.raises(UserError, match="trains on validation, but these are its test"):
        open_source(spec, "test", data_dir=str(tmp_path))


# Names, versions and configs.


def test_newest_version_or_the_one_named(tmp_path: Path):
    for version, count in (("1.9.0", 2), ("1.10.0", 3), ("2.0.0", 4)):
        write_dataset(tmp_path, {"train": [records(count)]}, version=version)

    def count(spec: str) -> int:
        return len(open_source(spec, "train", data_dir=str(tmp_path)))

    assert count("tfds:pets") == 4
    assert count("tfds:pets:1.9.0") == 2
    assert count("tfds:pets:1.*.*") == 3
    refused(r"no version 3\.0\.0 in .*; there: 1\.", tmp_path, "tfds:pets:3.0.0")


def test_configs(tmp_path: Path):
    write_dataset(tmp_path, SPLITS, name="pets/small")
    assert len(pets(tmp_path)) == TRAIN
    write_dataset(tmp_path, {"train": [records(1)]}, name="pets/large")
    refused("several configs .*; write tfds:pets/CONFIG, known: large, small", tmp_path)
    assert len(open_source("tfds:pets/large", "train", data_dir=str(tmp_path))) == 1
    (tmp_path / "pets" / ".config").mkdir()
    metadata = tmp_path / "pets" / ".config" / "metadata.json"
    metadata.write_text('{"default_config_name": "small"}')
    assert len(pets(tmp_path)) == TRAIN


def test_data_dir_of_the_environment(data_dir: Path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(open_source("tfds:pets", "train")) == TRAIN


def test_copies_of_older_tfds_versions_say_less(tmp_path: Path):
    folder = write_dataset(tmp_path, SPLITS)
    info = json.loads((folder / "dataset_info.json").read_text())
    del info["fileFormat"]
    info["supervisedKeys"] = {"input": "image", "output": "label"}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").unlink()
    assert pets(tmp_path).labels.tolist() == [i % 5 for i in range(TRAIN)]
    (folder / "label.labels.txt").unlink()
    refused(r"neither label\.labels\.txt nor a number of classes", tmp_path)


def test_other_features_and_pictures(tmp_path: Path):
    """As in cifar10 (PNG, id) with other names, and with features of no use here."""
    made = [
        example(
            {"id": b"train_7", "photo": jpeg(90, "PNG"), "weight": 0.5, "kind": 1},
        ),
        example({"photo": jpeg(30, "PNG"), "size": 9, "kind": 0, "id": b"train_8"}),
    ]
    folder = write_dataset(tmp_path, {"train": [made]})
    known = {
        "photo": {"image": {"encodingFormat": "png"}},
        "mask": {"image": {}},
        "kind": {"classLabel": {"numClasses": "2"}},
        "id": {"text": {}},
    }
    features = {"featuresDict": {"features": known}}
    (folder / "features.json").write_text(json.dumps(features))
    refused("is not clear .images: photo, mask; class labels: kind", tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    keys = [{"featureKey": "photo"}, {"featureKey": "kind"}]
    info["supervisedKeys"] = {"tuple": {"items": keys}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    source = pets(tmp_path)
    assert source.class_names == ("class_0", "class_1")
    assert source.labels.tolist() == [1, 0]
    assert [shade_of(source.read(i)) for i in range(2)] == [90, 30]
    assert "(train_7, " in source.describe(0)


# What is missing or half there.


def test_missing_data_set_says_how_to_make_it(tmp_path: Path):
    message = refused("data set imagenet2012 is not at", tmp_path, "tfds:imagenet2012")
    for part in (
        str(tmp_path / "imagenet2012"),
        "python experiments/prepare.py imagenet2012 --manual_dir=DIR_WITH_TARS",
        f"--data_dir={tmp_path}",
        "folder:PATH",
        "--config=digits",
    ):
        assert part in message
    refused("prepare.py pets --data_dir", tmp_path)
    refused("expected NAME", tmp_path, "tfds:")
    refused("expected NAME", tmp_path, "tfds:../x")


@pytest.mark.parametrize("name", ["incomplete.AB12CD_1.0.0", "1.0.0.incompleteAB12CD"])
def test_half_finished_build_is_named(tmp_path: Path, name: str):
    (tmp_path / "pets" / name).mkdir(parents=True)
    refused(f"not prepared to the end .*{name}.; run again: python", tmp_path)


@pytest.mark.parametrize("state", ["building", "checking"])
def test_unfinished_checks_are_named(folder: Path, tmp_path: Path, state: str):
    record = folder.parent / "nfnets_prepare.json"
    record.write_text(json.dumps({"state": state, "version": "1.0.0"}))
    refused("not prepared to the end .*run again: python experiments", tmp_path)
    for over in ("done", "damaged"):
        record.write_text(json.dumps({"state": over, "version": "1.0.0"}))
        assert len(pets(tmp_path)) == TRAIN
    record.write_text(json.dumps({"state": state, "version": "1.1.0"}))
    assert len(pets(tmp_path)) == TRAIN  # another version is in work
    record.write_text("{")
    refused("nfnets_prepare.json is not JSON", tmp_path)


def test_missing_and_odd_files_are_named(folder: Path, tmp_path: Path):
    shard = folder / "pets-train.tfrecord-00002-of-00003"
    content = shard.read_bytes()
    shard.unlink()
    refused("lacks pets-train.tfrecord-00002-of-00003 .1 of 3 shards", tmp_path)
    shard.write_bytes(content)
    other = folder / "pets-train.tfrecord-00003-of-00004"
    other.write_bytes(content)
    refused("has pets-train.tfrecord-00003-of-00004, which dataset_info", tmp_path)
    other.unlink()
    names = folder / "label.labels.txt"
    names.write_text("ant\nbee\n")
    refused("has 2 names, but features.json has 5", tmp_path)
    (folder / "dataset_info.json").write_text('{"name": "pets"')
    refused("dataset_info.json is damaged", tmp_path)
    (folder / "dataset_info.json").unlink()
    refused("has no dataset_info.json, so it is no finished", tmp_path)


def test_other_file_formats_are_named(folder: Path, tmp_path: Path):
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "parquet"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    refused("holds parquet files; expected array_record or tfrecord", tmp_path)


# Damage.


def test_cut_shards_are_named(data_dir: Path):
    (shard,) = data_dir.glob("pets/1.0.0/pets-train.*-00001-*")
    shard.write_bytes(shard.read_bytes()[:-9])
    found = "cut off in the record at byte" if "tfrecord" in shard.name else "its end"
    refused(f"shard {shard} is damaged: .*{found}", data_dir)


def test_missing_last_records_are_noticed(folder: Path, tmp_path: Path):
    shard = folder / "pets-train.tfrecord-00001-of-00003"
    shard.write_bytes(b"".join(frame(record) for record in records(3)))
    refused("has 3 records, dataset_info.json says 4", tmp_path)
    shard.write_bytes(b"".join([frame(b"junk"), frame(records(1)[0])]))
    refused("damaged: record 0: ", tmp_path)


def test_damaged_record_of_array_record_is_noticed(tmp_path: Path):
    folder = write_dataset(tmp_path, SPLITS, "array_record")
    shard = folder / "pets-train.array_record-00000-of-00003"
    content = bytearray(shard.read_bytes())
    content[300] ^= 0xFF
    shard.write_bytes(content)
    refused("shard .*array_record-00000-of-00003 is damaged", tmp_path)


def test_damaged_image_is_named_when_read(tmp_path: Path):
    good = records(2)
    cut = {"file_name": b"cut.jpg", "image": jpeg(50)[:-40], "label": 0}
    write_dataset(tmp_path, {"train": [[*good, example(cut)]]})
    source = pets(tmp_path)
    source.read(1)
    with pytest.raises(DamagedImage, match=r"train record 2 \(cut\.jpg, pets-train\."):
        source.read(2)


def test_record_that_changed_after_opening_is_damaged(folder: Path, tmp_path: Path):
    source = pets(tmp_path)
    shard = folder / "pets-train.tfrecord-00002-of-00003"
    content = shard.read_bytes()
    shard.write_bytes(content[:-30])
    with pytest.raises(DamagedImage, match="the file ends 26 bytes early"):
        source.read(10)
    source.read(9)
    label = b"\x0a\x05label\x12"
    where = content.rindex(label) + len(label) + 5
    assert content[where] == 0
    shard.write_bytes(content[:where] + b"\x04" + content[where + 1 :])
    with pytest.raises(DamagedImage, match="its label is 4, the index has 0"):
        source.read(10)
    shard.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        source.read(10)


# The index.


def dataset_of(data_dir: Path):
    return find_dataset(parse_name("pets", str(data_dir)))


def test_index_is_built_once_and_said(data_dir: Path, capfd):
    pets(data_dir)
    assert capfd.readouterr().err.count("indexing pets/1.0.0 train once: 11 rec") == 1
    place = Path(index_paths(dataset_of(data_dir), "train")[0])
    stamp = place.stat().st_mtime_ns
    pets(data_dir)
    assert capfd.readouterr().err == ""
    assert place.stat().st_mtime_ns == stamp
    assert not list(data_dir.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("touch", "pets-train.*-00001-of-00003 was changed"),
        ("grow", "00001-of-00003 has .* bytes, it had"),
        ("count", "has 6 records by dataset_info.json, it had 5"),
        ("merge", "pets-train.*-00000-of-00002 is new"),
    ],
)
def test_stale_index_is_refused_in_one_line(data_dir: Path, change: str, problem: str):
    pets(data_dir)
    info = data_dir / "pets" / "1.0.0" / "dataset_info.json"
    (shard,) = data_dir.glob("pets/1.0.0/pets-train.*-00001-*")
    if change == "touch":
        os.utime(shard, (0, shard.stat().st_mtime + 5))
    elif change == "grow":
        with shard.open("ab") as file:
            file.write(frame(records(1)[0]))
    elif change == "count":
        text = info.read_text().replace('["5", "4", "2"]', '["6", "3", "2"]')
        info.write_text(text)
    else:
        text = info.read_text().replace('["5", "4", "2"]', '["5", "6"]')
        info.write_text(text)
        for path in shard.parent.glob("pets-train.*-of-00003"):
            name = path.name.replace("of-00003", "of-00002")
            path.rename(
                path.with_name(name)
            ) if "00002-of" not in name else path.unlink()
    message = refused(problem, data_dir)
    place = data_dir / "pets" / "1.0.0" / "nfnets_index_train.npz"
    assert f"the index {place} does not fit its data" in message
    assert "delete that file" in message
    assert "python experiments/prepare.py pets" in message
    # Nothing is renewed by itself; deleting the file helps where the data are whole.
    refused(problem, data_dir)
    place.unlink()
    if change == "touch":
        assert len(pets(data_dir)) == TRAIN


def test_damaged_index_is_refused(folder: Path, tmp_path: Path):
    pets(tmp_path)
    place = folder / "nfnets_index_train.npz"
    content = place.read_bytes()
    for damaged in (b"", content[:100], content[:-30], b"PK" + bytes(500)):
        place.write_bytes(damaged)
        refused("does not fit its data: it is damaged", tmp_path)


def test_index_of_another_split_is_refused(folder: Path, tmp_path: Path):
    pets(tmp_path)
    pets(tmp_path, "test")
    place = folder / "nfnets_index_train.npz"
    shutil.copy(folder / "nfnets_index_test.npz", place)
    refused("its split is 'test', not 'train'", tmp_path)


def test_index_goes_to_the_cache_where_data_are_read_only(
    folder: Path, tmp_path: Path, cache: Path, monkeypatch, capfd
):
    from nfnets.data import storage

    write = storage.write_file

    def write_elsewhere(path: str, data: bytes) -> None:
        if path.startswith(str(tmp_path)):
            raise PermissionError(13, "Permission denied")
        write(path, data)

    monkeypatch.setattr(storage, "write_file", write_elsewhere)
    pets(tmp_path)
    assert not (folder / "nfnets_index_train.npz").exists()
    (kept,) = cache.rglob("nfnets_index_train.npz")
    assert f"kept the index in {kept}" in capfd.readouterr().err
    pets(tmp_path)
    assert capfd.readouterr().err == ""


def test_concurrent_builders_leave_one_whole_index(data_dir: Path):
    dataset = dataset_of(data_dir)
    lines: list[str] = []
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(build_index, dataset, "train", lines.append) for _ in range(24)
        ]
    built = [job.result() for job in jobs]
    assert all(line.startswith("indexing") for line in lines)  # all could write
    loaded = load_index(dataset, "train")
    for index in built:
        np.testing.assert_array_equal(index.labels, loaded.labels)
        np.testing.assert_array_equal(index.offsets, loaded.offsets)
    assert not list(data_dir.rglob("*.tmp"))


# Without TensorFlow, and behind URLs.

READ = """
import sys
from nfnets.data.sources import open_source
source = open_source("tfds:pets", "train", data_dir=sys.argv[1])
print(sum(int(source.read(i).mean()) for i in range(len(source))))
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"tensorflow", "tensorflow_datasets", "jax", "flax"}, loaded
assert ("fsspec" in loaded) == ("://" in sys.argv[1])
"""


def block(folder: Path, *packages: str) -> Path:
    """A directory for PYTHONPATH in which the packages cannot be imported."""
    for package in packages:
        (folder / package).mkdir(parents=True)
        code = f"raise ImportError('{package} is blocked', name='{package}')\n"
        (folder / package / "__init__.py").write_text(code)
    return folder


def test_reading_needs_no_tensorflow(data_dir: Path, tmp_path_factory):
    blocked = block(
        tmp_path_factory.mktemp("blocked"), "tensorflow", "tensorflow_datasets"
    )
    result = subprocess.run(
        [sys.executable, "-c", READ, str(data_dir)],
        env=os.environ | {"PYTHONPATH": f"{blocked}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    total = sum(shade(number) for number in range(TRAIN))
    assert abs(int(result.stdout) - total) <= TRAIN


@pytest.fixture
def memory():
    """Copies a folder to memory://; gives the URL."""
    import fsspec

    system = fsspec.filesystem("memory")

    def upload(folder: Path) -> str:
        for path in folder.rglob("*"):
            if path.is_file():
                place = path.relative_to(folder).as_posix()
                system.pipe_file(f"memory://bucket/{place}", path.read_bytes())
        return "memory://bucket"

    yield upload
    system.store.clear()


def test_tfrecord_behind_a_url(folder: Path, tmp_path: Path, memory, capfd):
    url = memory(tmp_path)
    source, local = pets(url), pets(tmp_path)
    np.testing.assert_array_equal(source.labels, local.labels)
    for index in range(TRAIN):
        np.testing.assert_array_equal(source.read(index), local.read(index))
        assert source.describe(index) == local.describe(index)
    capfd.readouterr()
    pets(url)  # the index lies beside the data
    assert capfd.readouterr().err == ""


def test_index_made_before_the_upload_is_used(folder, tmp_path, memory, capfd):
    pets(tmp_path)
    os.utime(folder / "pets-train.tfrecord-00000-of-00003", (0, 0))  # stamps differ
    capfd.readouterr()
    assert len(pets(memory(tmp_path))) == TRAIN
    assert capfd.readouterr().err == ""


def test_trouble_behind_a_url_is_one_line(tmp_path: Path, memory):
    message = refused("data set pets is not at memory://nowhere/p", "memory://nowhere")
    assert "prepare.py pets --file_format=tfrecord, and copy it to memory" in message
    refused("Protocol not known: nix", "nix://bucket")
    folder = write_dataset(tmp_path, SPLITS, "array_record")
    refused("holds array_record files, .*local disks only.*tfrecord", memory(tmp_path))
    assert folder.exists()


def test_gs_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    message = refused("gcsfs is needed for gs://bucket/x", "gs://bucket/x")
    assert message.endswith("run: pip install 'nfnets-flax[gcs]'")
