"""Hugging Face data sets, made here and read without a network."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nfnets.data.decode import DamagedImage
from nfnets.data.sources import Source, open_source
from nfnets.errors import UserError


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (6, 4), (number, 0, 0)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def datasets(monkeypatch, tmp_path: Path):
    """The package, with an empty cache and no network; or the test is skipped."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    package = pytest.importorskip(
        "datasets", reason="needs the package datasets (the extra hf)"
    )
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    package.disable_progress_bars()
    return package


def table(datasets, first: int, count: int, names=("cat", "dog"), labels=None):
    """Picture i has the shade i; columns besides image and label do not count."""
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=list(names)),
            "coarse_label": datasets.ClassLabel(names=["all"]),
        }
    )
    numbers = range(first, first + count)
    columns = {
        "id": list(numbers),
        "img": [{"bytes": picture(i), "path": f"{i}.png"} for i in numbers],
        "label": labels or [i % len(names) for i in numbers],
        "coarse_label": [0] * count,
    }
    return datasets.Dataset.from_dict(columns, features=features)


def refused(message: str, spec: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_source(spec, "train")
    assert "\n" not in str(caught.value)


def assert_shades(source: Source, shades: list[int]) -> None:
    assert [int(source.read(i)[0, 0, 0]) for i in range(len(source))] == shades


def test_a_saved_data_set(datasets, tmp_path: Path):
    splits = {"train": table(datasets, 0, 7), "test": table(datasets, 100, 3)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    train = open_source(f"hf:{tmp_path / 'saved'}", "train")
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert train.labels.dtype == np.int32
    assert_shades(train, list(range(7)))
    assert train.encoded(3) == picture(3)  # the bytes themselves, not decoded
    assert train.describe(3).endswith("saved/train record 3 (3.png)")
    test = open_source(f"hf:{tmp_path / 'saved'}", "test")
    assert_shades(test, [100, 101, 102])
    assert test.note == ""
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(train.encoded, list(range(7)) * 20))
    assert read == [picture(i) for i in range(7)] * 20


def test_without_a_labelled_test_split_a_tenth_is_held_out(datasets, tmp_path: Path):
    unlabelled = table(datasets, 100, 3, labels=[-1] * 3)
    for splits in (
        table(datasets, 0, 40),
        datasets.DatasetDict({"train": table(datasets, 0, 40), "test": unlabelled}),
    ):
        splits.save_to_disk(tmp_path / "saved")
        train, test = (
            open_source(f"hf:{tmp_path / 'saved'}", split)
            for split in ("train", "test")
        )
        shades = [int(s.read(i)[0, 0, 0]) for s in (train, test) for i in range(len(s))]
        assert sorted(shades) == list(range(40))
        assert set(test.labels.tolist()) == {0, 1}
        assert f"{len(test)} of 40 images" in test.note


def test_validation_is_the_test_split_where_test_has_no_labels(datasets, tmp_path):
    """As in imagenet-1k."""
    datasets.DatasetDict(
        train=table(datasets, 0, 4),
        test=table(datasets, 50, 2, labels=[-1, -1]),
        validation=table(datasets, 100, 2),
    ).save_to_disk(tmp_path / "saved")
    assert_shades(open_source(f"hf:{tmp_path / 'saved'}", "test"), [100, 101])


def test_folders_of_images_and_of_parquet(datasets, tmp_path: Path):
    for split, first in (("train", 0), ("test", 100)):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            (folder / "a.png").write_bytes(picture(first + number))
        (tmp_path / "rows").mkdir(exist_ok=True)
        rows = table(datasets, first, 2)
        rows.to_parquet(tmp_path / "rows" / f"{split}-00000-of-00001.parquet")
    for name in ("images", "rows"):
        for split, first in (("train", 0), ("test", 100)):
            source = open_source(f"hf:{tmp_path / name}", split)
            assert source.class_names == ("cat", "dog")
            assert source.labels.tolist() == [0, 1]
            assert_shades(source, [first, first + 1])


def test_one_parquet_file_with_labels_in_words(datasets, tmp_path: Path):
    rows = table(datasets, 0, 30).remove_columns(["label", "coarse_label"])
    words = ["dog" if i % 2 else "cat" for i in range(30)]
    rows.add_column("label", words).to_parquet(tmp_path / "x.parquet")
    source = open_source(f"hf:{tmp_path / 'x.parquet'}", "train")
    assert source.class_names == ("cat", "dog")
    for index in range(len(source)):
        shade = int(source.read(index)[0, 0, 0])
        assert source.labels[index] == shade % 2


def test_mistakes(datasets, tmp_path: Path):
    table(datasets, 0, 4).remove_columns("img").save_to_disk(tmp_path / "blind")
    refused(
        r"needs a column of type Image.*there: id \(Value\)", f"hf:{tmp_path / 'blind'}"
    )
    refused("names no data set; expected hf:OWNER/NAME", "hf:")
    refused("/no/where does not exist", "hf:/no/where")
    refused("cannot be opened: .*; check the name", "hf:nobody/nothing:config")
    splits = {"a": table(datasets, 0, 4), "b": table(datasets, 0, 4)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "ab")
    refused("has no split train; there: a, b", f"hf:{tmp_path / 'ab'}")


def test_damaged_and_missing_images_are_named(datasets, tmp_path: Path):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.Value("int64")}
    )
    images = [{"bytes": b"", "path": "e.png"}, {"bytes": b"x", "path": None}, None]
    columns = {"image": images, "label": [0, 1, 2]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    source = open_source(f"hf:{tmp_path / 'saved'}", "train")
    assert source.num_classes == 3
    for index, reason in enumerate(("is empty", "not a JPEG", "has no image")):
        with pytest.raises(DamagedImage, match=f"record {index}.*{reason}"):
            source.read(index)


def test_files_that_are_gone_are_named(datasets, tmp_path: Path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_bytes(picture(i))
    source = open_source(f"hf:{tmp_path}", "train")
    for path in tmp_path.glob("*/*.png"):
        path.unlink()
    with pytest.raises(DamagedImage, match=r"record \d+ \(.*png\): No such file"):
        source.read(0)


def test_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(r"datasets is needed.*run: pip install 'nfnets-flax\[hf\]'", "hf:cifar10")
