"""Odd files from end to end: read, or refused by name, within bounded memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import helpers
import numpy as np
import pytest
from helpers import ROOT
from odd_images import LARGE, OddImage, all_odd_images, damaged, plain, readable, save

from nfnets.data.augment_config import EvalCrop
from nfnets.data.decode import DamagedImage, decode
from nfnets.data.pipeline import make_eval_iter
from nfnets.data.sources import open_source
from nfnets.errors import UserError

ALL = all_odd_images()
GOOD = 30  # plain pictures beside the odd ones


def test_there_are_enough_cases():
    assert len(readable()) >= 24
    assert len(damaged()) >= 24


@pytest.mark.parametrize("name", ALL)
def test_each_is_read_or_refused(name: str):
    odd = ALL[name]
    if odd.size is None:
        with pytest.raises(DamagedImage, match=odd.reason) as caught:
            decode(odd.data, name=name)
        assert caught.value.record == name
        assert "\n" not in str(caught.value)
        return
    image = decode(odd.data)
    assert image.dtype == np.uint8
    assert image.shape == (*odd.size, 3)
    corners = image[:: max(1, odd.size[0] - 1), :: max(1, odd.size[1] - 1)]
    assert np.abs(corners.astype(int) - odd.pixel).max() <= odd.tolerance


@pytest.mark.parametrize("name", [n for n in readable() if "jpeg" in n or "cmyk" in n])
def test_without_simplejpeg_the_same_are_read(name: str, monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    test_each_is_read_or_refused(name)


# Peak memory of a program that decodes each file of a folder, in MB above its start.
MEASURE = """
import sys
from pathlib import Path
from nfnets.data.decode import DamagedImage, decode

def peak():
    (line,) = [l for l in open("/proc/self/status") if l.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

folder = Path(sys.argv[1])
for name in ("png.JPEG", "grey_jpeg.JPEG"):
    decode(folder / name)
start = peak()
for path in sorted(folder.iterdir(), key=lambda path: "large" in path.name):
    if "large" in path.name and "small" not in globals():
        small = peak()
    try:
        decode(path)
    except DamagedImage:
        pass
print(small - start, peak() - start)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc"
)
def test_memory_is_bounded(tmp_path: Path):
    """What bombs promise is never allocated; 60 megapixels take 8 bytes each."""
    for name, odd in ALL.items():
        (tmp_path / f"{name}.JPEG").write_bytes(odd.data)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    small, all_files = map(float, done.stdout.split())
    assert small < 30
    assert all_files < 8 * LARGE[0] * LARGE[1] / 2**20


def write_folder(root: Path, odd: dict[str, OddImage]) -> str:
    """A data set whose training and test images are these beside good ones."""
    for split in ("train", "test"):
        folder = root / split / "only"
        folder.mkdir(parents=True)
        for name, image in odd.items():
            (folder / f"{name}.JPEG").write_bytes(image.data)
        for i in range(GOOD if split == "train" else 0):
            (folder / f"good_{i}.JPEG").write_bytes(save(plain(), "JPEG"))
    return f"folder:{root}"


def train_iter(spec: str, said: list[str], max_damaged: float, backend: str):
    source = open_source(spec, "train")
    return source, helpers.train_iter(
        source,
        image_size=8,
        batch_size=len(source),  # each image once
        num_devices=1,
        num_steps=1,
        max_damaged=max_damaged,
        threads=2,
        log=said.append,
        backend=backend,
    )


@pytest.mark.parametrize("backend", helpers.BACKENDS)
def test_training_takes_others_in_place_of_damaged_ones(tmp_path: Path, backend: str):
    odd = readable() | damaged()
    said: list[str] = []
    source, batches = train_iter(write_folder(tmp_path, odd), said, 1.0, backend)
    with batches:
        (batch,) = batches
    assert batch["image"].shape == (1, len(source), 8, 8, 3)
    assert batches.damaged >= len(damaged())  # some were drawn in place of others
    named = {re.search(r"only/(\w+)\.JPEG: ", line)[1] for line in said}
    assert named == set(damaged())
    assert len(said) == len(named)


@pytest.mark.parametrize("backend", helpers.BACKENDS)
def test_training_stops_where_the_limit_says(tmp_path: Path, backend: str):
    spec = write_folder(tmp_path, damaged())
    with (
        train_iter(spec, [], 0.2, backend)[1] as batches,
        pytest.raises(UserError, match=r"^12 damaged .* more than 11 \(data\.max_dama"),
    ):
        list(batches)


@pytest.mark.parametrize("name", damaged())
def test_evaluation_names_the_first_damaged_image(tmp_path: Path, name: str):
    spec = write_folder(tmp_path, {"a": readable()["png"], name: damaged()[name]})
    batches = make_eval_iter(
        open_source(spec, "test"),
        crop=EvalCrop("resize", "bilinear", antialias=False, crop_pct=None),
        image_size=8,
        batch_size=2,
        num_devices=1,
        threads=1,
    )
    with pytest.raises(UserError, match=rf"evaluation image .*only/{name}\.JPEG: "):
        list(batches)
    batches.close()


def test_evaluation_reads_every_odd_image(tmp_path: Path):
    odd = readable()
    batches = make_eval_iter(
        open_source(write_folder(tmp_path, odd), "test"),
        crop=EvalCrop("resize_crop", "bicubic", antialias=True, crop_pct=0.875),
        image_size=8,
        batch_size=len(odd),
        num_devices=1,
        threads=1,
    )
    (batch,) = batches
    assert batch["mask"].all()
    for name, image in zip(sorted(odd), batch["image"][0], strict=True):
        difference = np.abs(image - np.array(odd[name].pixel))
        assert difference.max() <= odd[name].tolerance + 0.01, name
