"""The real sweep, as a person runs it: killed, resumed, complete, reported again."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import xla_flags
from helpers import ROOT

FLAGS = (
    "--config=digits",
    "--grid=optim.lr_per_256=0.1,1e30",  # the second one diverges at once
    "--grid=seed=0,1",
    "--config.model_overrides.depths=(1,1)",
    "--config.model_overrides.widths=(16,32)",
    "--config.model_overrides.strides=(2,2)",
    "--config.model_overrides.stem_channels=(8,8,8)",
    "--config.model_overrides.group_size=8",
    "--config.batch_size=48",
    "--config.num_epochs=6",
    "--config.eval.every_epochs=2",
    "--config.optim.warmup_epochs=0",
    "--config.max_nonfinite_steps=3",
    "--config.checkpoint_every_steps=50",
    "--config.log_every_steps=3",
)
STEPS = 179  # 1437 images * 6 epochs // 48


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts experiments/sweep.py; compiled steps are shared between the runs."""
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {
        "XLA_FLAGS": xla_flags.devices(1),
        "JAX_NUMPY_RANK_PROMOTION": "allow",
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
    }

    def start_program(*flags, **variables):
        return subprocess.Popen(
            [sys.executable, ROOT / "experiments" / "sweep.py", *flags],
            env=environment | variables,
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start_program


def ends(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def rows_of(run):
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def wait_until(process, condition):
    for _ in range(60_000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    raise AssertionError("it never came to that")


def test_a_sweep_is_stopped_goes_on_and_is_not_run_twice(start, tmp_path):
    first = tmp_path / "runs" / "optim.lr_per_256=0.1,seed=0"
    process = start(*FLAGS, f"--sweepdir={tmp_path}")
    wait_until(process, lambda: rows_of(first))
    process.send_signal(signal.SIGTERM)
    status, out, err = ends(process)
    assert status == 75, err
    assert "the same command goes on" in out
    stopped = rows_of(first)[-1]["step"]
    assert stopped < STEPS
    assert json.loads((first / "outcome.json").read_text())["status"] == "interrupted"

    # Two shards at once, as on two machines; no JAX device is theirs to take.
    shards = [
        start(*FLAGS, f"--sweepdir={tmp_path}", f"--shard={i}/2") for i in range(2)
    ]
    for i, shard in enumerate(shards):
        status, out, err = ends(shard)
        assert status == 0, err
        assert out.count(f"seed={i}") == 2
        assert f"seed={1 - i}" not in out
    resumed = [row["step"] for row in rows_of(first) if "event" in row]
    assert len(resumed) == 1
    assert 0 < resumed[0] <= stopped + 3  # not from the start

    before = {path: path.read_bytes() for path in tmp_path.glob("runs/*/metrics.jsonl")}
    assert len(before) == 4
    status, out, err = ends(start(*FLAGS, f"--sweepdir={tmp_path}"))
    assert status == 0, err
    assert "4 of 4 runs are there already" in out
    assert {path: path.read_bytes() for path in before} == before

    with (tmp_path / "results.csv").open(newline="") as file:
        table = {row["run"]: row for row in csv.DictReader(file)}
    assert [row["status"] for row in table.values()] == ["ok", "ok", *["diverged"] * 2]
    for seed in (0, 1):
        name = f"optim.lr_per_256=0.1,seed={seed}"
        last = rows_of(tmp_path / "runs" / name)[-1]
        assert last["step"] == int(table[name]["step"]) == STEPS
        assert last["eval/top1"] == float(table[name]["eval/top1"])
        assert last["eval/examples"] == 360
    report = (tmp_path / "report.md").read_text()
    assert "| 1e30 | 0 | - | - | - | - | 2 |" in report

    # What needs no training needs no device: this platform does not exist.
    alone = {"JAX_PLATFORMS": "nonsense"}
    (tmp_path / "report.md").unlink()
    status, out, err = ends(start("--report_only", f"--sweepdir={tmp_path}", **alone))
    assert status == 0, err
    assert (tmp_path / "report.md").read_text() == report
    status, out, err = ends(start(*FLAGS, "--dry_run", "--shard=1/2", **alone))
    assert status == 0, err
    assert f"2 (shard 0): optim.lr_per_256=1e30,seed=0: {STEPS} steps of 48" in out
    assert f"4 runs; shard 1 of 2: {2 * STEPS} steps" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--config=digits", "--grid=seed=0"), "give --sweepdir"),
        (("--config=digits", "--grid=sed=0"), "sed=0: the config has no field"),
        (("--config=digits", "--grid=seed=0", "--shard=2/2"), "from 0 to n - 1"),
        (("--grid=seed=0", "--steps=3"), "Unknown command line flag 'steps'"),
        (("--report_only", "--sweepdir=x"), "holds no sweep"),
        (("--report_only", "--sweepdir=x", "--name=agc"), "takes the grid that"),
        (("--config=digits", "--grid=seed=0", "--sweepdir=gs://x"), "local directory"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(start, flags, message):
    status, out, err = ends(start(*flags))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_runs_mistake_is_the_sweeps(start, tmp_path):
    source = "--config.data.source=folder:nowhere"
    status, _, err = ends(
        start("--config=digits", "--grid=seed=0,1", source, f"--sweepdir={tmp_path}")
    )
    assert status == 2
    assert err.startswith("error: seed=0: ")
    assert "nowhere" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs" / "seed=1").exists()
