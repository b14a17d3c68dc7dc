"""The real search, as a person runs it: kills in and between candidates, signals."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import xla_flags
from helpers import ROOT

from effnetv2.block_strings import parse_stages
from effnetv2.reward import reward
from nfnets.data.sources import open_source
from nfnets.flops import count_params_of
from nfnets.registry import create_model

OVERRIDES = {"stem_stride": 2, "head_channels": 8}
BACKBONE = {"stages": ["r1_k3_s1_e1_i8_o8_c1"], "overrides": OVERRIDES}
STEPS = 300
FLAGS = (
    "--config=digits",
    "--candidates=3",
    f"--steps={STEPS}",
    "--algorithm=random",
    "--seed=24",  # small networks, so that it is quick
    "--config.batch_size=24",
    "--config.checkpoint_every_steps=50",
    "--config.log_every_steps=5",
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts experiments/search.py; compiled steps are shared between the runs."""
    home = tmp_path_factory.mktemp("home")
    (home / "backbone.json").write_text(json.dumps(BACKBONE))
    environment = os.environ | {
        "XLA_FLAGS": xla_flags.devices(1),
        "JAX_NUMPY_RANK_PROMOTION": "allow",
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
    }

    def start_program(*flags):
        return subprocess.Popen(
            [sys.executable, ROOT / "experiments" / "search.py", *flags],
            env=environment,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start_program


def ends(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def search(start, directory, *flags):
    flags = (*FLAGS, "--backbone=backbone.json", f"--searchdir={directory}", *flags)
    return start(*flags)


def lines_of(path):
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def wait_until(process, condition):
    for _ in range(60_000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise AssertionError("it never came to that")


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    """An uninterrupted search: its directory and what it printed."""
    directory = tmp_path_factory.mktemp("finished")
    status, out, err = ends(search(start, directory))
    assert status == 0, err
    return directory, out


def test_a_search_measures_trains_and_scores(finished):
    directory, out = finished
    rows = lines_of(directory / "candidates.jsonl")
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert rows[0]["stages"] == BACKBONE["stages"]
    assert rows[0]["params"] == 1
    backbone_params = rows[0]["num_params"]
    for row in rows:
        model = create_model(
            "effnetv2_b0", num_classes=10, stages=tuple(row["stages"]), **OVERRIDES
        )
        assert row["num_params"] == count_params_of(model)
        assert row["params"] == row["num_params"] / backbone_params
        assert row["step_seconds"] > 0
        assert row["steps"] == STEPS
        assert row["reward"] == reward(row["accuracy"], row["step_time"], row["params"])
        run = directory / "candidates" / f"{row['index']:04d}"
        (final,) = [r for r in lines_of(run / "metrics.jsonl") if "eval/top1" in r]
        assert final["eval_ema/top1"] == row["accuracy"]
        # A tenth of the 1437 training digits; none of the 360 test digits.
        assert final["eval/examples"] == 143
        config = json.loads((run / "config.json").read_text())
        assert (config["eval"]["split"], config["data"]["holdout"]) == ("holdout", 143)
        assert not (run / "checkpoints").exists()
    assert max(row["accuracy"] for row in rows) > 0.2  # chance is 0.1
    assert f"{rows[2]['index']}        reward {rows[2]['reward']:.4f}" in out


def test_held_out_images_are_no_training_images():
    def images(split, holdout):
        source = open_source(
            "digits", split, class_map=None, num_classes=None, data_dir=None,
            holdout=holdout,
        )  # fmt: skip
        return len(source)

    assert images("train", 0) == images("train", 143) + images("holdout", 143)


def test_the_report_shows_a_network_that_can_be_made(finished):
    directory, _ = finished
    rows = lines_of(directory / "candidates.jsonl")
    best = max(rows, key=lambda row: row["reward"])
    report = (directory / "report.md").read_text()
    code = report.split("```python\n")[1].split("```")[0]
    model = eval(code, {"create_model": create_model})
    assert model.variant.stages == tuple(best["stages"])
    shapes = jax.eval_shape(
        lambda key: model.init(key, np.zeros((1, 8, 8, 3), np.float32), train=False),
        jax.random.key(0),
    )
    assert shapes["params"]["head"]["kernel"].shape == (8, 1000)
    assert (directory / "pareto.png").read_bytes()[:4] == b"\x89PNG"
    with (directory / "candidates.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["reward"]) for row in table] == [row["reward"] for row in rows]
    larger = json.loads(report.split("```json\n")[1].split("```")[0])
    assert larger["s"]["stages"] == best["stages"]
    assert [larger[name]["eval_size"] for name in "sml"] == [384, 480, 480]
    for name in "sml":
        parse_stages(larger[name]["stages"])


def test_the_best_network_trains_by_the_whole_recipe(finished):
    directory, _ = finished
    status, out, err = ends(
        subprocess.Popen(
            [sys.executable, ROOT / "experiments" / "run.py", "--print_config",
             f"--config={directory / 'best.py'}", "--config.watchdog_minutes=0.5"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
    )  # fmt: skip
    assert status == 0, err
    shown = json.loads(out)
    best = max(lines_of(directory / "candidates.jsonl"), key=lambda r: r["reward"])
    assert shown["recipe"]["model_overrides"]["stages"] == best["stages"]
    # The recipe as it was given: all training images, its own epochs, the test images.
    assert shown["recipe"]["num_epochs"] == 25
    assert shown["recipe"]["data"]["holdout"] == 0
    assert shown["recipe"]["eval"]["split"] == "test"
    assert shown["changes"] == {"watchdog_minutes": "None -> 0.5"}


def numbers(directory):
    """What does not depend on how long steps took."""
    kept = ("index", "genotype", "stages", "status", "accuracy", "num_params", "steps")
    rows = lines_of(directory / "candidates.jsonl")
    return [{key: row[key] for key in kept} for row in rows]


def test_a_search_that_is_killed_twice_loses_nothing(start, finished, tmp_path):
    """Kill -9 inside the second candidate's training, then before the third's."""
    history = tmp_path / "candidates.jsonl"
    second = tmp_path / "candidates" / "0001" / "metrics.jsonl"
    process = search(start, tmp_path)
    wait_until(process, lambda: any(r["step"] >= 150 for r in lines_of(second)))
    process.kill()
    process.communicate()
    assert len(lines_of(history)) == 1
    before = history.read_bytes()

    process = search(start, tmp_path)
    wait_until(process, lambda: len(lines_of(history)) == 2)
    process.kill()
    process.communicate()
    assert history.read_bytes().startswith(before)
    resumed = [row["step"] for row in lines_of(second) if "event" in row]
    assert resumed
    assert 50 <= resumed[0] < STEPS  # from a checkpoint, not from the start
    before = history.read_bytes()

    status, out, err = ends(search(start, tmp_path))
    assert status == 0, err
    assert "2 of 3 candidates are finished" in out
    assert history.read_bytes().startswith(before)
    assert numbers(tmp_path) == numbers(finished[0])


def test_a_signal_saves_and_says_how_to_go_on(start, tmp_path):
    first = tmp_path / "candidates" / "0000" / "metrics.jsonl"
    process = search(start, tmp_path)
    wait_until(process, lambda: lines_of(first))
    process.send_signal(signal.SIGTERM)
    status, out, _ = ends(process)
    assert status == 75
    assert "the same command goes on" in out
    assert (tmp_path / "candidates" / "0000" / "checkpoints").exists()


def test_retraining_and_scaling_need_the_directory_only(start, finished):
    directory, _ = finished
    status, out, err = ends(start("--mode=retrain", f"--searchdir={directory}"))
    assert status == 0, err
    (best, median) = lines_of(directory / "retrained.jsonl")
    assert best["seed"] == median["seed"] == 1
    assert f"reward {best['reward']:.4f} (at first {best['first_reward']:.4f})" in out
    ranked = sorted(
        lines_of(directory / "candidates.jsonl"), key=lambda r: -r["reward"]
    )
    assert [best["index"], median["index"]] == [ranked[0]["index"], ranked[1]["index"]]
    status, out, err = ends(start("--mode=scale", f"--searchdir={directory}"))
    assert status == 0, err
    assert json.loads(out)["s"]["stages"] == ranked[0]["stages"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config=digits",), "give --searchdir"),
        (("--searchdir=x",), "give --config"),
        (("--searchdir=x", "--config=digits", "--backbone=b7"), "unknown backbone"),
        (("--searchdir=x", "--config=nope"), "unknown config 'nope'"),
        (("--searchdir=x", "--mode=retrain"), "holds no search"),
        (("--searchdir=x", "--mode=scale", "--config=digits"), "takes the config that"),
        (("--searchdir=x", "--config=digits", "--candidates=few"), "candidates"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(start, flags, message):
    status, out, err = ends(start(*flags))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
