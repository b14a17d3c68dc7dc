"""Hostile and damaged files: images, pickles, archives, and a tiny ImageNet."""

from __future__ import annotations

import functools
import io
import json
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from fault_data import write_noise_folder
from fault_trials import Lab, Row, Trial, pytest_trials
from helpers import ROOT
from hostile_pickles import VALID
from mutated_files import mutate, refusal_of
from odd_images import damaged
from real_program import SMALL_FLAGS, rows_of

from nfnets.weights.pickles import read_pickle
from nfnets.weights.readers import read_npz, read_safetensors

# What a small archive may unpack to in these trials.
MAX_BYTES = 1 << 20
KINDS = ("pickle", "npz", "safetensors")


def images_among_good_ones(lab: Lab, directory: Path, split: str) -> int:
    """1 % of 1000 training images are damaged, or one that is evaluated."""
    images = write_noise_folder(directory / "images", per_class=250, test_per_class=3)
    names = list(damaged())[:10]
    if split == "test":
        names = names[:1]
    for name in names:
        (images / split / "ant" / f"{name}.png").write_bytes(damaged()[name].data)
    workdir = directory / "run"
    status, out, err = lab.program.run(
        *SMALL_FLAGS,
        f"--config.data.source=folder:{images}",
        "--config.num_epochs=2",
        "--config.data.max_damaged=0.02",
        f"--workdir={workdir}",
    )
    for name in names:
        assert len(re.findall(rf"{name}\.png: ", out + err)) == 1, (name, out, err)
    if split == "test":
        assert status == 2, (out, err)
        assert "evaluation image" in err
        return 1
    assert status == 0, (out, err)
    # Two epochs meet each of them about twice.
    last = [row for row in rows_of(workdir) if "train/damaged_images" in row][-1]
    assert len(names) <= last["train/damaged_images"] <= 3 * len(names), last
    return len(names)


def odd_images(lab: Lab, count: int) -> Iterator[Trial]:
    yield Trial(
        "1 % of 1000 training images",
        lambda directory: images_among_good_ones(lab, directory, "train"),
    )
    yield Trial(
        "one test image",
        lambda directory: images_among_good_ones(lab, directory, "test"),
    )
    yield from pytest_trials("test_odd_images.py")(lab, count)


def arrays() -> Mapping[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "conv/kernel": generator.standard_normal((3, 3, 2, 4)).astype(np.float32),
        "head/bias": generator.standard_normal(5).astype(np.float16),
        "steps": np.arange(3),
    }


@functools.cache
def originals() -> Mapping[str, tuple[bytes, ...]]:
    """Whole files of every kind."""
    pickles = json.loads(
        (ROOT / "tests" / "golden" / "weights_pickles.json").read_text("utf-8")
    )
    made_elsewhere = (
        bytes.fromhex(value) for key, value in pickles.items() if key[0] != "_"
    )
    archives = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, **arrays())
        archives.append(stream.getvalue())
    return {
        "pickle": (VALID, *made_elsewhere),
        "npz": tuple(archives),
        "safetensors": (safetensors.numpy.save(dict(arrays())),),
    }


def mutations(kind: str, number: int, seed: int, directory: Path) -> int:
    """Each is refused in one line or gives plain arrays."""
    generator = random.Random(seed)
    path = directory / f"file.{kind}"
    for index in range(number):
        files = originals()[kind]
        data = mutate(files[index % len(files)], generator)
        (directory / "last").write_bytes(data)  # what to look at, should it be lost
        if kind == "pickle":
            refusal = refusal_of(lambda d=data: read_pickle(d, "here"), len(data))
        else:
            path.write_bytes(data)
            read = {
                "npz": lambda: read_npz(path, MAX_BYTES),
                "safetensors": lambda: read_safetensors(path),
            }[kind]
            refusal = refusal_of(read, MAX_BYTES)
        assert refusal is None or "\n" not in refusal, refusal
    return number


def hostile_files(lab: Lab, count: int) -> Iterator[Trial]:
    for kind in KINDS:
        yield Trial(
            f"{count} mutations of {kind}",
            lambda directory, kind=kind: mutations(
                kind, count, lab.generator.getrandbits(32), directory
            ),
        )
    tests = ("test_weights_pickles.py", "test_weights_damage.py", "test_data_tars.py")
    yield from pytest_trials(*tests)(lab, 0)


def tiny_imagenet(lab: Lab, count: int) -> Iterator[Trial]:
    yield from pytest_trials("test_prepare.py")(lab, count)
    for file_format in ("array_record", "tfrecord"):
        yield Trial(
            f"prepared as {file_format}, trained and evaluated",
            lambda directory, f=file_format: trained_on_imagenet(lab, directory, f),
        )


def trained_on_imagenet(lab: Lab, directory: Path, file_format: str) -> int:
    """The official tars in small, through prepare.py and run.py; the loss falls."""
    import subprocess
    import sys

    from tiny_imagenet import COUNTS, VALIDATION, write_tars

    tars = directory / "tars"
    tars.mkdir()
    write_tars(tars)
    subprocess.run(
        [
            sys.executable,
            ROOT / "experiments" / "prepare.py",
            "imagenet2012",
            f"--manual_dir={tars}",
            f"--data_dir={directory / 'data'}",
            f"--file_format={file_format}",
            *COUNTS,
        ],
        check=True,
        env=lab.program.environment,
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    shutil.rmtree(tars)
    workdir = directory / "run"
    status, out, err = lab.program.run(
        *SMALL_FLAGS,
        "--config.data.source=tfds:imagenet2012",
        f"--config.data.data_dir={directory / 'data'}",
        "--config.batch_size=36",
        "--config.num_epochs=20",
        "--config.eval.every_epochs=10",
        "--config.optim.warmup_epochs=0",
        f"--workdir={workdir}",
    )
    assert status == 0, (out, err)
    losses = [row["train/loss"] for row in rows_of(workdir) if "train/loss" in row]
    assert len(losses) == 20
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.5, losses
    assert rows_of(workdir)[-1]["eval/examples"] == VALIDATION
    return 1


ROWS = (
    Row(
        "R14",
        "1 % of 1000 training images damaged: skipped, counted, named; one evaluation "
        "image: status 2; 51 odd files in each backend, memory bounded",
        10,
        odd_images,
    ),
    Row(
        "R17",
        "hostile pickles, npz, safetensors and tars, and 12,000 random mutations of "
        "each kind of weights: refused in one line or plain arrays, nothing runs",
        12_000,
        hostile_files,
    ),
    Row(
        "R18",
        "a tiny imagenet2012 from tars in both formats: labels are the pictures', a "
        "killed build goes on, training lowers the loss",
        2,
        tiny_imagenet,
    ),
)
