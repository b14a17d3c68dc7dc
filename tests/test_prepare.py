"""The prepare command: real builds of tiny official tars, and everything amiss."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from tfds_files import CLASSES, example, jpeg, records, write_dataset
from tiny_imagenet import (
    COUNTS,
    LABELS,
    PER_CLASS,
    VALIDATION,
    tfds_file,
    write_tars,
)

from nfnets.data import prepare_checks
from nfnets.data.prepare import prepare
from nfnets.data.sources import open_source
from nfnets.data.tfds_source import TfdsSplit
from nfnets.errors import UserError

COMMAND = [sys.executable, str(ROOT / "experiments" / "prepare.py"), "imagenet2012"]
FORMATS = ("array_record", "tfrecord")


def label_in(image: np.ndarray) -> int:
    red, green, _ = (round(value / 8) for value in image.mean(axis=(0, 1)))
    return red * 32 + green


@pytest.fixture(scope="session")
def tars(tmp_path_factory) -> Path:
    """The official tars in small."""
    return write_tars(tmp_path_factory.mktemp("tars"))


@pytest.fixture(scope="session")
def blocked(tmp_path_factory) -> dict[str, str]:
    """The environment of a machine without TensorFlow."""
    folder = tmp_path_factory.mktemp("blocked")
    (folder / "tensorflow").mkdir()
    code = "raise ImportError('No module named tensorflow', name='tensorflow')\n"
    (folder / "tensorflow" / "__init__.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


def run(*flags: str, **environment: str) -> tuple[int, str]:
    """Runs the command; its status and what it printed."""
    result = subprocess.run(
        [*COMMAND, *flags],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return result.returncode, result.stdout


def error_of(*flags: str, **environment: str) -> str:
    """Runs the command to its error, which must be all that it prints."""
    status, printed = run(*flags, **environment)
    assert status == 2, printed
    assert printed.startswith("error: "), printed
    assert printed.count("\n") == 1, printed
    return printed


def need_tensorflow() -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("building needs the extra [tf]")


@pytest.fixture(scope="session")
def killed(tars: Path, tmp_path_factory) -> tuple[Path, str]:
    """Where a build was killed while it wrote, and how reading was refused then."""
    need_tensorflow()
    data_dir = tmp_path_factory.mktemp("array_record")
    flags = [f"--manual_dir={tars}", f"--data_dir={data_dir}", *COUNTS]
    process = subprocess.Popen([*COMMAND, *flags], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 250
    while not list(data_dir.glob("imagenet2012/incomplete*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(UserError) as caught:
        open_source("tfds:imagenet2012", "train", data_dir=str(data_dir))
    return data_dir, str(caught.value)


@pytest.fixture(scope="session")
def prepared(killed, tars: Path, tmp_path_factory) -> dict[str, Path]:
    """The data directory of either format; one goes on after the kill."""
    places = {"array_record": killed[0], "tfrecord": tmp_path_factory.mktemp("tfrec")}
    for file_format, place in places.items():
        flags = [f"--manual_dir={tars}", f"--data_dir={place}", *COUNTS]
        if file_format == "tfrecord":
            flags.append("--file_format=tfrecord")
        status, printed = run(*flags)
        assert status == 0, printed
        # Nothing but our own lines, in order.
        starts = ("building", "indexing", "tfds:", "indexing", "tfds:", "done; train")
        lines = printed.splitlines()
        assert len(lines) == len(starts), printed
        assert all(map(str.startswith, lines, starts)), printed
    return places


def sources(prepared: dict[str, Path], split: str, **options):
    return [
        open_source("tfds:imagenet2012", split, data_dir=str(prepared[name]), **options)
        for name in FORMATS
    ]


def test_killed_build_is_recognised_and_continued(killed, prepared):
    data_dir, message = killed
    assert "was not prepared to the end" in message
    assert "run again: python experiments/prepare.py imagenet2012" in message
    folder = data_dir / "imagenet2012"
    names = {path.name for path in folder.iterdir()}
    assert names == {"5.1.0", "nfnets_prepare.json"}
    assert json.loads((folder / "nfnets_prepare.json").read_text())["state"] == "done"


def test_labels_are_those_of_the_pictures(prepared):
    synsets = tfds_file("labels.txt")
    for split, labels in (("train", LABELS), ("test", None)):
        for source in sources(prepared, split):
            assert source.class_names == tuple(synsets)
            for index in range(len(source)):
                assert source.labels[index] == label_in(source.read(index))
                if split == "train":
                    name = source.class_names[source.labels[index]]
                    assert f"({name}_" in source.describe(index)
            if labels is not None:
                counts = np.bincount(source.labels, minlength=1000)
                assert np.flatnonzero(counts).tolist() == list(labels)
                assert set(counts[list(labels)]) == {PER_CLASS}
            else:
                assert len(source) == VALIDATION


def test_both_formats_hold_the_same(prepared):
    for split in ("train", "test"):
        one, two = sources(prepared, split)
        np.testing.assert_array_equal(one.labels, two.labels)
        for index in range(len(one)):
            np.testing.assert_array_equal(one.read(index), two.read(index))


TFDS_ORDER = """
import json, sys
import tensorflow_datasets as tfds
builder = tfds.builder("imagenet2012", data_dir=sys.argv[1])
data = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
print(json.dumps([[row["file_name"].decode(), int(row["label"])] for row in data]))
"""


def test_order_is_that_of_tfds(prepared):
    result = subprocess.run(
        [sys.executable, "-c", TFDS_ORDER, prepared["array_record"]],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = json.loads(result.stdout)
    for source in sources(prepared, "train"):
        assert [label for _, label in expected] == source.labels.tolist()
        for index, (name, _) in enumerate(expected):
            assert f"({name}, " in source.describe(index)


def test_holdout_is_the_first_of_tfds_train(prepared):
    for source, held in zip(
        sources(prepared, "train"),
        sources(prepared, "holdout", holdout=10),
        strict=True,
    ):
        assert [held.describe(i) for i in range(10)] == [
            source.describe(i) for i in range(10)
        ]


def test_prepared_data_needs_no_tensorflow(prepared, blocked):
    """Neither to be read nor to be found done, nor for checks that were cut short."""
    code = (
        "import sys; from nfnets.data.sources import open_source\n"
        "for name in sys.argv[1:]:\n"
        "    source = open_source('tfds:imagenet2012', 'test', data_dir=name)\n"
        "    assert sum(source.read(i).size for i in range(len(source)))\n"
        "assert not {n for n in sys.modules if n.startswith('tensorflow')}\n"
    )
    places = [str(place) for place in prepared.values()]
    subprocess.run(
        [sys.executable, "-c", code, *places], env=os.environ | blocked, check=True
    )
    for place in prepared.values():
        flags = [f"--data_dir={place}", *COUNTS]
        status, printed = run(*flags, **blocked)
        assert (status, printed.count("\n")) == (0, 1), printed
        assert "is prepared and checked already" in printed
    record = prepared["tfrecord"] / "imagenet2012" / "nfnets_prepare.json"
    state = json.loads(record.read_text())
    record.write_text(json.dumps(state | {"state": "checking"}))
    with pytest.raises(UserError, match="not prepared to the end"):
        sources(prepared, "train")
    assert run(*flags, **blocked)[0] == 0
    assert json.loads(record.read_text())["state"] == "done"
    sources(prepared, "train")


def test_other_counts_or_formats_are_refused(prepared):
    place = f"--data_dir={prepared['tfrecord']}"
    message = error_of(place, "--num_train=37", COUNTS[1])
    assert "train has 36 records, expected 37" in message
    assert "--num_train=36" in message
    assert "expected 1281167" in error_of(place)
    message = error_of(place, *COUNTS, "--file_format=array_record")
    assert "holds tfrecord files already" in message


def test_tensorflow_is_asked_for_in_one_line(tars, blocked, tmp_path: Path):
    flags = [f"--manual_dir={tars}", f"--data_dir={tmp_path}", *COUNTS]
    message = error_of(*flags, **blocked)
    assert "tensorflow is needed for building" in message
    assert "pip install 'nfnets-flax[train,tf]'" in message
    assert [path.name for path in tmp_path.iterdir()] == [".nfnets_prepare.lock"]


# Without TFDS from here on: what is refused before a build, and checks after one.


def prepare_here(
    data_dir: Path, name: str = "pets", manual_dir: Path | None = None, **expected: int
) -> list[str]:
    """Runs it in this process; gives its lines."""
    lines: list[str] = []
    prepare(
        name,
        manual_dir=None if manual_dir is None else str(manual_dir),
        data_dir=str(data_dir),
        file_format=None,
        threads=2,
        expected=expected,
        log=lines.append,
    )
    return lines


def refused(message: str, *arguments, **options) -> str:
    with pytest.raises(UserError, match=message) as caught:
        prepare_here(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_tars_are_named_and_where_to_get_them(tmp_path: Path):
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(b"x")
    message = refused(
        "ILSVRC2012_img_val.tar is missing; download",
        tmp_path / "data",
        "imagenet2012",
        tmp_path,
    )
    assert "https://image-net.org" in message
    refused("give --manual_dir=DIR with ILSVRC2012_img", tmp_path, "imagenet2012")


def test_cut_downloads_and_full_disks_are_noticed_before_the_build(
    tmp_path: Path, monkeypatch
):
    """Sizes are those that TFDS's own checksums.tsv has."""
    sizes = {
        Path(line[0]).name: int(line[1])
        for line in np.array(tfds_file("checksums.tsv")).reshape(-1, 3)
    }
    full = {"train": 1281167, "validation": 50000}
    for name, size in sizes.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # holes: they take no room
    arguments = (tmp_path / "data", "imagenet2012", tmp_path)
    usage = (0, 0, 165 * 10**9)
    monkeypatch.setattr(
        prepare_checks.shutil, "disk_usage", lambda _: type("", (), {"free": usage[2]})
    )
    refused("165.0 GB free, but 170.1 GB are needed", *arguments, **full)
    os.truncate(tmp_path / "ILSVRC2012_img_val.tar", 6744924159)
    refused(
        "img_val.tar has 6744924159 bytes, the official file has 6744924160",
        *arguments,
        **full,
    )


def test_own_copies_are_checked_and_indexed(tmp_path: Path):
    folder = write_dataset(tmp_path, {"train": [records(9)], "test": [records(4)]})
    lines = prepare_here(tmp_path, train=9)
    assert any("train: decoded 9 images, 0 damaged" in line for line in lines)
    assert sorted(path.name for path in folder.glob("*.npz")) == [
        "nfnets_index_test.npz",
        "nfnets_index_train.npz",
    ]
    assert prepare_here(tmp_path) == [
        f"pets/1.0.0 in {tmp_path} is prepared and checked already"
    ]
    # After a change everything is checked and indexed again.
    (shard,) = folder.glob("pets-train.tfrecord-*")
    os.utime(shard, (0, 0))
    with pytest.raises(UserError, match="does not fit"):
        open_source("tfds:pets", "train", data_dir=str(tmp_path))
    assert any("decoded 9 images" in line for line in prepare_here(tmp_path))
    open_source("tfds:pets", "train", data_dir=str(tmp_path))


def test_wrong_counts_leave_an_own_copy_usable(tmp_path: Path):
    write_dataset(tmp_path, {"train": [records(9)], "test": [records(4)]})
    refused("train has 9 records, expected 10", tmp_path, train=10)
    refused("validation has 0 records, expected 4", tmp_path, validation=4)
    assert len(open_source("tfds:pets", "train", data_dir=str(tmp_path))) == 9


def damaged(number: int) -> bytes:
    parts = {"image": jpeg(9)[:-20], "label": 0}
    return example(parts | {"file_name": f"cut_{number}.jpg".encode()})


def many(count: int, cut: int) -> list[bytes]:
    """Records of which the last are damaged."""
    return records(5) * ((count - cut) // 5) + [damaged(i) for i in range(cut)]


def test_few_damaged_training_images_are_listed(tmp_path: Path):
    """One in a thousand, as data.max_damaged allows a run."""
    write_dataset(tmp_path, {"train": [many(1001, 1)], "test": [records(4)]})
    lines = prepare_here(tmp_path)
    assert any("1 damaged training images" in line for line in lines)
    (line,) = (tmp_path / "pets" / "nfnets_damaged.txt").read_text().splitlines()
    assert "train record 1000 (cut_0.jpg, pets-train" in line
    assert any(line in said for said in lines)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (many(1007, 7), records(4), "7 of 1007 train images are damaged, at most 1 "),
        (many(10, 0), many(1001, 1), "1 of 1001 test images are damaged, at most 0 "),
    ],
)
def test_damaged_data_are_refused(tmp_path: Path, train, test, message: str):
    write_dataset(tmp_path, {"train": [train], "test": [test]})
    refused(message, tmp_path)
    listed = (tmp_path / "pets" / "nfnets_damaged.txt").read_text()
    assert listed.count("cut_") == max(1, len(train) - 1000)
    refused(message, tmp_path)  # and again: it is not done
    # What to do with damaged images is then for the settings of a run to say.
    open_source("tfds:pets", "train", data_dir=str(tmp_path))


def test_labels_outside_the_classes_are_refused(tmp_path: Path):
    strange = example({"image": jpeg(9), "label": len(CLASSES)})
    write_dataset(tmp_path, {"train": [[strange]], "test": [records(4)]})
    refused(r"label 5 of pets/1.0.0 train record 0 .*outside 0\.\.4", tmp_path)


def imagenet(labels: np.ndarray) -> TfdsSplit:
    names = tuple(f"n{i}" for i in range(1000))
    return TfdsSplit("imagenet", names, labels, None, str, None, str, None)


def test_full_imagenet_must_have_its_numbers_per_class():
    """732 to 1300 training images of each class, and 50 for validation."""
    fewest, most = (np.repeat(np.arange(1000), count) for count in (732, 1300))
    for labels in (fewest, most):
        prepare_checks.check_labels(imagenet(labels), "train", per_class=True)
    for labels in (fewest[1:], np.append(most, 7)):
        with pytest.raises(UserError, match=r"class n[07] has (731|1301) images"):
            prepare_checks.check_labels(imagenet(labels), "train", per_class=True)
    validation = np.repeat(np.arange(1000), 50)
    prepare_checks.check_labels(imagenet(validation), "validation", per_class=True)
    validation[0] = 1
    with pytest.raises(UserError, match=r"class n0 has 49 images.*2 classes"):
        prepare_checks.check_labels(imagenet(validation), "validation", per_class=True)


def test_one_at_a_time(tmp_path: Path):
    import fcntl

    with (tmp_path / ".nfnets_prepare.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused("another process prepares data in", tmp_path)


def test_places_that_cannot_be_written_to(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    refused("file cannot be written to .*another --data_dir", tmp_path / "file")
    with pytest.raises(UserError, match="prepare on a local disk"):
        prepare_here("gs://b")


def test_unknown_settings_are_named(tmp_path: Path):
    refused("names a version; leave it out", tmp_path, "pets:1.0.0")
    status = error_of(f"--data_dir={tmp_path}", "--file_format=zip")
    assert "file_format is 'zip'; expected array_record or tfrecord" in status
    assert "threads is 0" in error_of(f"--data_dir={tmp_path}", "--threads=0")
