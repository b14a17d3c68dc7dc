"""Numbers that are not finite, labels that are none, counts, and a long run."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from fault_trials import Lab, Row, Trial, pytest_trials
from helpers import tiny_recipe, with_changes
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from real_program import SMALL_FLAGS, ends
from tfds_files import CLASSES, example, jpeg, records, write_dataset

from nfnets.data.sources import Source
from nfnets.initialize import init_variables
from nfnets.training import parallel
from nfnets.training.eval_step import make_eval_step
from nfnets.training.evaluation import evaluate
from nfnets.training.optimizer import make_optimizer
from nfnets.training.state import init_state
from nfnets.training.steps import make_train_step

NUM_DEVICES = 4


@functools.cache
def four_device_step() -> tuple[Any, Any]:
    """A compiled step on four devices, and the state before it, on all of them."""
    recipe = tiny_recipe(optim__warmup_epochs=0.0)
    model = recipe.create_model()
    variables = init_variables(model, jax.random.key(0), 8)
    tx = make_optimizer(recipe, variables["params"])
    devices = jax.devices()[:NUM_DEVICES]
    step = jax.pmap(
        make_train_step(model, tx, recipe),
        axis_name="batch",
        in_axes=(None, 0),
        out_axes=(None, None),
        devices=devices,
    )
    replicated = NamedSharding(Mesh(np.array(devices), ("batch",)), PartitionSpec())
    return step, jax.device_put(init_state(variables, tx, keep_ema=True), replicated)


def batch_of(seed: int) -> dict[str, np.ndarray]:
    """24 images of noise over four devices, as floats, which may be damaged."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (NUM_DEVICES, 6, 8, 8, 3))
    labels = generator.integers(0, 10, (NUM_DEVICES, 6), np.int32)
    return {"image": images.astype(np.float32), "label": labels}


def replicas_stay_equal() -> int:
    """After 5, 10, 15 and 20 steps all four devices hold the same bits."""
    step, state = four_device_step()
    for number in range(1, 21):
        state, _ = step(state, batch_of(number))
        if number % 5 == 0:
            for leaf in jax.tree.leaves(state):
                first, *others = (np.asarray(s.data) for s in leaf.addressable_shards)
                assert len(others) == NUM_DEVICES - 1
                for other in others:
                    np.testing.assert_array_equal(other, first)
    return 1


def bad_value_on_one_device(value: float) -> int:
    """Good, bad, good: parameters, momentum and averages are those of good, good.

    The second good step is the third of both: the step decides the average's weight.
    """
    step, state = four_device_step()
    bad = batch_of(1)
    bad["image"][2, 3, 4, 5, 0] = value
    with_bad, _ = step(state, batch_of(0))
    with_bad, metrics = step(with_bad, bad)
    assert int(metrics["skipped_total"]) == 1
    with_bad, _ = step(with_bad, batch_of(2))
    without, _ = step(state, batch_of(0))
    without, _ = step(without.replace(step=without.step + 1), batch_of(2))
    for name in ("params", "opt_state", "ema_params", "ema_batch_stats"):
        ours, theirs = getattr(with_bad, name), getattr(without, name)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert int(with_bad.step) == 3
    assert with_bad.skipped.tolist() == [0, 1]
    return 1


def non_finite(lab: Lab, count: int) -> Iterator[Trial]:
    for value in (np.nan, np.inf):
        yield Trial(
            f"{value} on one of four devices at one step",
            lambda _, value=value: bad_value_on_one_device(value),
        )
    tests = (
        "test_steps.py -k finite_update",
        "test_run.py -k non_finite",
    )
    yield from pytest_trials(*tests)(lab, count)


# 2**32 is 0 in the 32 bits that labels have.
BAD_LABELS = (-1, 1000, 2**31 - 1, 2**32)


def bad_label(lab: Lab, directory: Path, label: int, split: str) -> int:
    """One record among good ones has it: the record is named before training."""
    strange = example({"image": jpeg(9), "label": label})
    splits = {name: [[*records(40)]] for name in ("train", "test")}
    splits[split] = [[*records(40), strange]]
    write_dataset(directory / "data", splits)
    status, out, err = lab.program.run(
        *SMALL_FLAGS,
        "--config.data.source=tfds:pets",
        f"--config.data.data_dir={directory / 'data'}",
        f"--workdir={directory / 'run'}",
    )
    assert status == 2, (out, err)
    named = rf"label {label} of pets/1.0.0 {split} record 40 .*outside 0\.\.4|"
    assert re.search(named + "record 40.*label", err), err
    assert not (directory / "run" / "metrics.jsonl").exists()
    return 1


def bad_labels(lab: Lab, count: int) -> Iterator[Trial]:
    del count
    assert len(CLASSES) == 5
    for label in BAD_LABELS:
        yield Trial(
            f"label {label} in train",
            lambda directory, label=label: bad_label(lab, directory, label, "train"),
        )
    yield Trial(
        "label 1000 in test", lambda directory: bad_label(lab, directory, 1000, "test")
    )


class FirstPixel(nn.Module):
    """Scores that are whole numbers: twice for class p % 10, once for p // 10 % 10."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        pixel = jnp.round(images[:, 0, 0, 0] * 255 * 0.229 + 255 * 0.485)
        pixel = pixel.astype(jnp.int32)
        return 2.0 * jax.nn.one_hot(pixel % 10, 10) + jax.nn.one_hot(
            pixel // 10 % 10, 10
        )


def numbered_source(count: int) -> Source:
    """Images of one random grey, 8 x 8, with random labels."""
    generator = np.random.default_rng(count)
    grey = generator.integers(0, 256, count, np.uint8)
    return Source(
        name="greys",
        class_names=tuple(map(str, range(10))),
        labels=generator.integers(0, 10, count).astype(np.int32),
        read=lambda index: np.full((8, 8, 3), grey[index], np.uint8),
        describe=str,
    )


def counted_exactly(num_examples: int, num_devices: int, batch_size: int) -> int:
    """Top-1 of every example by NumPy and by the evaluation."""
    source = numbered_source(num_examples)
    recipe = with_changes(tiny_recipe(), eval__batch_size=batch_size)
    devices = jax.devices()[:num_devices]
    with mock.patch.object(parallel, "devices", return_value=devices):
        row = evaluate(
            parallel.pmap_eval_step(make_eval_step(FirstPixel())),
            {"eval": {}},
            source,
            recipe,
        )
    assert row is not None
    grey = np.array([source.read(i)[0, 0, 0] for i in range(num_examples)])
    assert row["eval/examples"] == num_examples
    hits = int((grey % 10 == source.labels).sum())
    assert row["eval/top1"] == hits / num_examples, (row, hits)
    return 1


def counted_by_two(lab: Lab, directory: Path, devices: int, batch_size: int) -> int:
    """Two processes evaluate a checkpoint as one does."""
    reference = lab.reference(*SMALL_FLAGS)
    flags = (*SMALL_FLAGS, "--mode=eval", f"--config.eval.batch_size={batch_size}")
    found = []
    for count, each in ((1, 1), (2, devices)):
        workdir = directory / str(count)
        shutil.copytree(reference, workdir)
        started = lab.program.start_several(
            count, *flags, f"--workdir={workdir}", devices=each
        )
        for status, out, err in ends(started):
            assert status == 0, (out, err)
        result = json.loads((workdir / "evaluation.json").read_text())
        found.append({k: v for k, v in result.items() if "/top" in k or "/ex" in k})
    assert found[0] == found[1]
    assert found[0]["eval/examples"] == 360
    return 1


def counts(lab: Lab, count: int) -> Iterator[Trial]:
    """``count`` is the larger number of examples."""
    sizes = itertools.product((1003, count), (1, 2, 3, 4), (7, 64, 250))
    for num_examples, num_devices, batch_size in sizes:
        yield Trial(
            f"{num_examples} examples on {num_devices} devices by {batch_size}",
            lambda _, case=(num_examples, num_devices, batch_size): counted_exactly(
                *case
            ),
        )
    for devices, batch_size in ((1, 7), (2, 64), (2, 250)):
        yield Trial(
            f"two processes of {devices} devices by {batch_size}",
            lambda folder, d=devices, b=batch_size: counted_by_two(lab, folder, d, b),
        )


ROWS = (
    Row(
        "R13",
        "NaN or Inf on one of four devices at one step: that update is left out on "
        "all, parameters, momentum and averages are as before; in a row: status 3",
        4,
        non_finite,
    ),
    Row(
        "R15",
        "a record with label -1, 1000, 2^31 - 1 or 2^32: named, status 2, nothing is "
        "trained",
        5,
        bad_labels,
    ),
    Row(
        "R16",
        "evaluation of 1003 and 50,000 examples x 1 to 4 devices x batches of 7, 64, "
        "250, and in two processes: integer-equal counts",
        50_000,
        counts,
    ),
)
