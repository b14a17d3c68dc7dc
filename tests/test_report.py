"""The report's account of a run: steps, time, restarts, speed."""

import dataclasses
import itertools
import platform

import numpy as np
import pytest
from helpers import recipe_of, tiny_recipe

from nfnets.training import between_steps
from nfnets.training.curves import last_panel
from nfnets.training.report import RunFacts, run_lines
from nfnets.training.session import Position, log_start
from nfnets.versions import versions

FACTS = RunFacts(
    command="",
    changes={},
    num_params=1000,
    num_trained=1000,
    devices="1 x cpu",
    data="digits",
)


def train_row(step, speed):
    counts = {"train/skipped_total": 1, "train/damaged_images": 2}
    times = {"train/images_per_second": speed, "train/input_wait": 10 / speed}
    return {"step": step, **times, **counts}


def lines_of(rows, facts=FACTS, seconds=0.0):
    recipe = tiny_recipe(batch_size=20)
    lines = run_lines(rows, recipe, facts, seconds)
    return dict(line.removeprefix("- ").split(": ", 1) for line in lines)


def test_restarts_and_time_are_counted():
    """Restarted at steps 10 and 20, and once more when all was done."""
    last = tiny_recipe(batch_size=20).total_steps
    rows = [
        train_row(20, 100.0),
        {"step": 10, "event": "resumed"},
        train_row(20, 200.0),
        {"step": 20, "event": "resumed"},
        train_row(40, 400.0),
        train_row(last, 400.0),
        {"step": last, "event": "resumed"},
    ]
    lines = lines_of(rows, seconds=3600 + 2 * 60 + 3.4)
    assert lines["time"].startswith("1 h 02 min 03 s ")
    assert "restarts: 2," in lines["time"]
    # Medians of 200, 400 and 400 images/s: what was done again counts once.
    assert lines["speed"].startswith(
        "0.05 s per step, 2.5% of it waiting for input, 400 images/s"
    )
    assert lines["steps"].startswith(f"{last} of {last} with 20 images, ")
    assert f"{last * 20:,} images seen" in lines["steps"]
    assert "1 updates skipped" in lines["steps"]
    assert "2 damaged images" in lines["steps"]


def test_a_run_that_has_just_begun():
    lines = lines_of([])
    assert lines["steps"].startswith("0 of ")
    assert lines["speed"] == "not measured yet"
    assert lines["model"] == "nfnet_f0, 1,000 parameters, from random weights"
    probe = dataclasses.replace(FACTS, num_trained=10)
    assert "1,000 parameters, 10 of them trained" in lines_of([], probe)["model"]


def test_waiting_for_input_is_counted(monkeypatch):
    """The clock goes on by a second at each look."""
    clock = itertools.count()
    monkeypatch.setattr(between_steps.time, "monotonic", lambda: float(next(clock)))
    speed = between_steps.Speed(0, 100)  # at 0 s
    batches = speed.watch(iter([{}, {}, {}]))
    for _ in range(2):  # asked at 1 and 3 s, there at 2 and 4 s
        next(batches)
    images_per_second, input_wait = speed.read(2)  # at 5 s; starts anew at 6 s
    assert images_per_second == 2 * 100 / 5
    assert input_wait == 2 / 5
    assert list(batches) == [{}]  # 7 to 8 s, and the end at 9 to 10 s
    assert speed.read(3)[1] == 2 / 5  # of 6 to 11 s


@pytest.mark.parametrize(
    ("model", "clipping", "notes"),
    [("nfnet_f0", None, 1), ("nfnet_f0", 0.01, 0), ("nf_resnet50", None, 0)],
)
def test_an_nfnet_without_clipping_is_remarked_on(tmp_path, model, clipping, notes):
    recipe = recipe_of("digits", model=model, optim__agc_clipping=clipping)
    said = []
    log_start(recipe, FACTS, tmp_path, said.append)
    assert len([line for line in said if "may diverge without" in line]) == notes


def test_time_goes_on_after_a_restart():
    record = Position(step=7, seconds=100.0).record()
    assert 100 <= record["seconds"] < 110
    old = {"step": 7, "window": [], "damaged": 0, "label_sets": None}
    assert Position(**old).elapsed < 10  # a checkpoint from before time was kept


@pytest.mark.parametrize("clips", [True, False])
def test_the_last_panel_shows_every_clipped_group_or_the_gradient(clips):
    row = {"step": 1, "train/grad_norm": 2.0}
    clipped = {"train/agc_clipped": 0.1, "train/agc_clipped/weights": 0.2}
    _, keys, _ = last_panel([row | clipped if clips else row, {"step": 1}])
    assert set(keys) == (set(clipped) if clips else {"train/grad_norm"})


def test_versions_leave_out_what_is_absent():
    assert versions(("numpy", "no-such-package")) == {
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
