"""The input benchmark: its arithmetic, and that it runs. Speeds are never asserted."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from nfnets.benchmark import (
    images,
    memory,
    ours,
    process_tree,
    tf_randaugment,
    variants,
)
from nfnets.benchmark.runner import Measurement, parse_cores
from nfnets.benchmark.summary import Spread, format_table, make_rows, ratio_spread
from nfnets.data.augment_config import check_augment
from nfnets.data.tf_operations import (
    NAMES,
    Reach,
    apply_operation,
    draw_operation,
    operation_argument,
)
from nfnets.errors import UserError

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="measuring needs Linux's /proc"
)
SCRIPT = ROOT / "experiments" / "benchmark.py"
TINY_RUN = ("--rounds=1", "--batches=2", "--batch_size=4", "--size=32")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "jpegs"
    place.mkdir()
    for number in range(6):
        (place / f"{number}.jpg").write_bytes(jpeg(number))
    return place


@pytest.fixture
def run(script, tmp_path, folder, capsys):
    """Runs the script on tiny images; gives its status, what it printed, its JSON."""
    core = min(os.sched_getaffinity(0))

    def run_script(command: str, *more: str):
        out = tmp_path / "out.json"
        given = (f"--images={folder}", f"--cores={core}", f"--json={out}", *more)
        status = script.main([command, *given])
        content = json.loads(out.read_text()) if out.exists() else None
        return status, capsys.readouterr(), content

    return run_script


def measurement(variant: str, number: int, rate: float, utilisation: float = 1.0):
    return Measurement(variant, number, rate, rate / 2, utilisation, 10.0 * number)


def test_ratios_are_of_the_same_round():
    # 100/50 = 2, 300/100 = 3, 90/20 = 4.5; round 3 has no reference.
    rates = {0: 100.0, 1: 300.0, 2: 90.0, 3: 1.0}
    assert ratio_spread(rates, {0: 50.0, 1: 100.0, 2: 20.0}) == Spread(3.0, 2.0, 4.5)
    assert ratio_spread(rates, {7: 1.0}) is None


def test_the_better_mode_stands_for_its_row():
    names = ("tf.data bilinear (private pool)", "tf.data bilinear (AUTOTUNE)")
    decode = "full decode"
    measured = [
        *(measurement(names[0], i, rate) for i, rate in enumerate((90, 100, 400))),
        *(measurement(names[1], i, rate) for i, rate in enumerate((200, 150, 100))),
        *(measurement(decode, i, 300, 0.8) for i in range(3)),
    ]
    chosen = [variants.VARIANTS[name] for name in (*names, decode)]
    tfdata, full = make_rows(chosen, measured)
    assert (tfdata.row, tfdata.mode) == ("tf.data bilinear", "AUTOTUNE")
    assert tfdata.cpu_rate == Spread(150, 100, 200)
    assert tfdata.wall_rate == Spread(75, 50, 100)
    assert tfdata.pss_mb == 10
    assert tfdata.ratios["tf.data bilinear"] == Spread(1, 1, 1)
    assert full.ratios["tf.data bilinear"] == Spread(2, 1.5, 3)
    assert (full.busy, tfdata.busy) == (True, False)
    table = format_table([tfdata, full]).split("\n")
    assert "0.80 machine busy" in table[-1]
    assert "2.00 (1.50-3.00)" in table[-1]
    assert len({line.count("|") for line in table}) == 1


def test_variants_have_valid_settings_and_modes_that_differ():
    rows = [(variant.row, variant.mode) for variant in variants.VARIANTS.values()]
    assert len(set(rows)) == len(rows)
    for variant in variants.choose(variants.OURS, "randaugment", 1):
        check_augment(ours.make_augment(variant, "randaugment"))
    timm = variants.VARIANTS["ours python timm_box bicubic AA"]
    augment = ours.make_augment(timm, "randaugment")
    # rand-m9-mstd0.5-inc1 of timm: two layers, each applied with probability 0.5
    assert augment.semantics == "timm"
    assert (augment.randaugment_layers, augment.randaugment_magnitude) == (2, 9)
    assert (augment.randaugment_rate, augment.randaugment_noise) == (0.5, 0.5)


def test_no_worker_loop_without_workers_on_two_cores():
    one, two = (variants.choose(["torch_timm"], "plain", cores) for cores in (1, 2))
    assert [variant.mode for variant in one] == ["workers", "0 workers"]
    assert [variant.mode for variant in two] == ["workers"]
    with pytest.raises(UserError, match="unknown loader 'dalli'; did you mean dali"):
        variants.choose(["dalli"], "plain", 1)


def test_cores_that_are_not_there_are_refused():
    usable = sorted(os.sched_getaffinity(0))
    assert parse_cores(f"{usable[0]}") == (usable[0],)
    assert parse_cores(",".join(map(str, usable))) == tuple(usable)
    for text in ("", "a", "100000", "3-1"):
        with pytest.raises(UserError, match="cores are"):
            parse_cores(text)


def test_containers_hold_the_same_bytes(tmp_path):
    written = [jpeg(number) for number in range(3)]
    images.write_containers(written, tmp_path)
    source = ours.open_images(str(tmp_path))
    assert [source.encoded(number) for number in range(3)] == written
    files = images.image_files(str(tmp_path))
    assert [Path(file).read_bytes() for file in files] == written


def test_tensorflow_reads_the_records(tmp_path):
    tf = pytest.importorskip("tensorflow")
    written = [jpeg(number) for number in range(2)]
    images.write_containers(written, tmp_path)
    found = []
    for record in tf.data.TFRecordDataset(str(tmp_path / images.TFRECORD)):
        feature = tf.train.Example.FromString(record.numpy()).features.feature
        assert list(feature["label"].int64_list.value) == [0]
        found += feature["image"].bytes_list.value
    assert found == written


@pytest.mark.parametrize("name", NAMES)
def test_tensorflows_randaugment_does_the_same_work_as_ours(name):
    """Ours equals the official code bit for bit; truncation may differ by one."""
    tf = pytest.importorskip("tensorflow")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    reach = Reach(cutout=8, translate=10.0)
    operation = draw_operation(name, 9.0, reach, (0.3, 0.5, 0.6))
    expected = apply_operation(image, operation)
    argument = operation_argument(name, 9.0, reach)
    draws = tf.constant([0.3, 0.5, 0.6])
    found = tf_randaugment.apply_operation(tf.constant(image), name, argument, draws)
    differences = np.abs(found.numpy().astype(int) - expected)
    # A pixel halfway between two may be either where a warp rounds.
    assert np.mean(differences > 1) < 0.005


def test_made_up_images_are_like_imagenet():
    """Mean 468x401 and 110 KB (facts of the real ones), within a tenth."""
    made = images.describe_images(images.make_images(24), "made up")
    assert made["mean_width"] == pytest.approx(468, rel=0.1)
    assert made["mean_height"] == pytest.approx(401, rel=0.1)
    assert made["mean_bytes"] == pytest.approx(110_000, rel=0.1)


def test_cpu_time_and_memory_are_of_the_tree():
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(1)\ninput()"
    before = process_tree.cpu_seconds()
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout.readline() == b"1\n"
    assert child.pid in process_tree.descendants(os.getpid())
    assert process_tree.cpu_seconds() - before > 0.25  # it still lives
    pages = [
        re.search(r"^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
        for pid in (os.getpid(), child.pid)
    ]
    both = sum(int(found[1]) for found in pages) / 1024
    assert process_tree.tree_memory_mb()["Pss"] == pytest.approx(both, rel=0.1)
    child.communicate(b"\n")
    assert process_tree.cpu_seconds() - before > 0.25  # it has ended
    assert child.pid not in process_tree.descendants(os.getpid())


def test_memory_rows_and_batches_in_flight():
    assert memory.checkpoints(20000) == [200, 2000, 10000, 20000]
    assert memory.checkpoints(2) == [1, 2]
    job = memory.Job("", "", 224, 64, 1, "plain", 1)
    # two that wait, one being made, one in use: 4 * 64 * 224 * 224 * 3 bytes
    assert memory.batches_in_flight_mb(job) == 36.75


def test_input_prints_a_table_and_writes_numbers(run):
    status, printed, content = run("input", "--ours=", "--peers=decode", *TINY_RUN)
    assert status == 0, printed
    assert "| full decode | - |" in printed.out
    assert content["images"]["count"] == 6
    (row,), (measured,) = content["rows"], content["measurements"]
    assert row["ratios"]["full decode"]["median"] == 1
    assert measured["cpu_rate"] == row["cpu_rate"]["median"] > 0
    keys = {"settings", "images", "machine", "versions", "left_out", "failed"}
    assert keys <= content.keys()


def test_input_measures_our_loader(run):
    only = "--only=python tf_box bilinear,full decode"
    status, printed, content = run("input", only, *TINY_RUN)
    assert status == 0, printed
    assert len(content["rows"]) == 2
    assert "| ours python tf_box bilinear | bilinear |" in printed.out


def test_memory_prints_a_table(run):
    few = ("--batches=3", "--batch_size=2", "--size=32", "--backend=python")
    status, printed, content = run("memory", *few)
    assert status == 0, printed
    assert [row["batches"] for row in content["rows"]] == [1, 2, 3]
    assert "| batches | images | peak PSS |" in printed.out


def test_missing_peers_are_named_and_left_out(run, monkeypatch):
    monkeypatch.setattr(variants, "_is_installed", lambda name: name == "simplejpeg")
    peers = "--peers=decode,torch_timm,dali"
    status, printed, content = run("input", "--ours=", peers, *TINY_RUN)
    assert status == 0, printed
    assert "left out: torch_timm: no module torch, torchvision, timm; " in printed.out
    assert "left out: dali: no module nvidia.dali; pip install nvidia-" in printed.out
    assert [row["row"] for row in content["rows"]] == ["full decode"]
    assert content["left_out"]["DALI CPU"] == ["nvidia.dali"]
    assert run("input", "--ours=", "--peers=dali")[0] == 0


def test_a_failing_loader_is_named(run, folder):
    whole = (folder / "0.jpg").read_bytes()
    (folder / "0.jpg").write_bytes(whole[: len(whole) // 2])
    status, printed, content = run("input", "--ours=", "--peers=decode", *TINY_RUN)
    assert status == 1
    assert "failed: full decode: exit status 1: ValueError: " in printed.out
    assert content["measurements"] == []


def test_mistakes_are_one_line(run, tmp_path):
    cases = {
        "--images=nowhere": "nowhere: ",
        f"--images={tmp_path / 'none'}": "expected a folder or tar of JPEGs",
        "--size=0": "--size is 0; expected 1 or more",
        "--only=none": "nothing to measure",
    }
    for argument, message in cases.items():
        status, printed, _ = run("input", "--ours=", "--peers=decode", argument)
        assert status == 2
        assert message in printed.err.splitlines()[-1]
