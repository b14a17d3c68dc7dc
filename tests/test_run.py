"""The real program, as a person runs it: ends, errors, kills, signals, resuming."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT
from real_program import (
    TINY_FLAGS,
    numbers_by_step,
    program_in,
    rows_of,
    saved_steps,
    wait_until,
)

STEPS = 89  # 1437 images * 3 epochs // 48


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """experiments/run.py in an empty directory."""
    return program_in(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def start(program):
    """Starts it; gives the process."""
    return program.start


@pytest.fixture(scope="session")
def run(program):
    """Runs it to the end; gives (status, stdout, stderr)."""
    return program.run


def train(run, workdir, *flags):
    return run(*TINY_FLAGS, f"--workdir={workdir}", *flags)


@pytest.fixture(scope="session")
def finished(run, tmp_path_factory):
    """An uninterrupted run: its directory and what it printed."""
    workdir = tmp_path_factory.mktemp("finished")
    status, out, err = train(run, workdir)
    assert status == 0, err
    return workdir, out


def test_a_run_learns_and_names_its_files(finished):
    workdir, out = finished
    named = re.search(r"wrote    (.*)", out)[1].split(", ")
    for path in named:
        assert os.path.exists(path), path
    assert {os.path.basename(path) for path in named} == {
        "metrics.jsonl",
        "metrics.csv",
        "curves.png",
        "report.md",
        "checkpoints",
    }
    assert list(workdir.glob("events.out.tfevents.*"))
    final = [row for row in rows_of(workdir) if "eval_ema/top1" in row][-1]
    assert final["step"] == STEPS
    assert final["eval/examples"] == final["eval_ema/examples"] == 360
    assert final["eval/top1"] > 0.5  # chance is 0.1
    assert final["eval/top1"] <= final["eval/top5"] <= 1


def test_rows_have_the_documented_keys(finished):
    workdir, _ = finished
    rows = rows_of(workdir)
    train_row = next(row for row in rows if "train/loss" in row)
    assert set(train_row) == {
        "step",
        "epoch",
        "train/loss",
        "train/top1",
        "train/learning_rate",
        "train/grad_norm",
        "train/agc_clipped",
        "train/agc_clipped/weights",
        "train/agc_clipped/gains_biases",
        "train/skipped_total",
        "train/damaged_images",
        "train/images_per_second",
        "train/input_wait",
    }
    steps = [row["step"] for row in rows if "train/loss" in row]
    assert steps == [*range(3, STEPS, 3), STEPS]
    assert len([row for row in rows if "eval/top1" in row]) == 3


def test_report_says_what_was_run(finished):
    workdir, _ = finished
    report = (workdir / "report.md").read_text()
    for part in (
        "--config.num_epochs=3",
        "- `num_epochs`: 25.0 -> 3.0",
        "1437 training and 360 test images",
        "moving average",
        "jax 0.",
        '"agc_clipping"',
    ):
        assert part in report
    png = (workdir / "curves.png").read_bytes()
    assert png.startswith(b"\x89PNG")


def test_running_again_changes_nothing(run, finished):
    workdir, out = finished
    before = numbers_by_step(workdir)
    status, again, _ = train(run, workdir)
    assert status == 0
    assert numbers_by_step(workdir) == before
    assert "compile" not in again
    result = re.compile(r"result .*")
    assert result.findall(again) == result.findall(out)


def wait_for_rows(process, workdir, count):
    wait_until(lambda: len(rows_of(workdir)) >= count, [process])


def test_killed_twice_and_resumed_equals_uninterrupted(start, finished, tmp_path):
    moments = sorted(random.sample(range(1, 16), 2))  # rows written before the kill
    print("killed after rows", moments)
    for rows in moments:
        process = start(*TINY_FLAGS, f"--workdir={tmp_path}")
        wait_for_rows(process, tmp_path, len(rows_of(tmp_path)) + rows)
        time.sleep(random.random() * 0.1)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.communicate()
    process = start(*TINY_FLAGS, f"--workdir={tmp_path}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert numbers_by_step(tmp_path) == numbers_by_step(finished[0])


PROGRESSIVE = (
    "--config.progressive.stages=3",
    "--config.progressive.image_size=4",
    "--config.progressive.drop_rate=0.0",
    "--config.augment.mixup_alpha=0.2",
    "--config.progressive.mixup_alpha=0.0",
)


def test_killed_in_the_second_and_third_stage_resumes_exactly(run, start, tmp_path):
    """Stages of 29, 30 and 30 steps; the first mixes nothing, so it reads less."""
    status, out, err = train(run, tmp_path / "whole", *PROGRESSIVE)
    assert status == 0, err
    for line in (
        "1 to 29: 4 px, RandAugment 0, mixup 0, cutmix 0, dropout 0",
        "30 to 59: 6 px, RandAugment 0, mixup 0.1, cutmix 0, dropout 0.1",
        "60 to 89: 8 px, RandAugment 0, mixup 0.2, cutmix 0, dropout 0.2",
    ):
        assert f"stage    steps {line}" in out
    assert re.search(r"in the background, waited .* at 6 px", out)
    report = (tmp_path / "whole" / "report.md").read_text()
    assert re.search(r"\| 60 to 89 \| 8 \| 0 \| 0.2 \| 0 \| 0.2 \| \d+ \|", report)
    flags = (*TINY_FLAGS, *PROGRESSIVE, f"--workdir={tmp_path / 'killed'}")
    for first, end in ((36, 59), (66, 89)):
        process = start(*flags)
        wait_until(
            lambda first=first: any(
                r["step"] >= first for r in rows_of(tmp_path / "killed")
            ),
            [process],
        )
        process.kill()
        process.communicate()
        assert first <= rows_of(tmp_path / "killed")[-1]["step"] < end
    status, out, err = run(*flags)
    assert status == 0, err
    assert re.search(r"^compile .* at 8 px$", out, re.M)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert numbers_by_step(killed) == numbers_by_step(whole)


def test_a_signal_while_the_next_stage_compiles_exits_75_at_once(start, tmp_path):
    """An ordinary exit would wait for the compiler, or be aborted by it."""
    cache = tmp_path / "empty"  # so that there is something to compile
    process = start(
        *TINY_FLAGS,
        *PROGRESSIVE,
        "--config.log_every_steps=1",
        f"--workdir={tmp_path}",
        JAX_COMPILATION_CACHE_DIR=str(cache),
    )
    wait_for_rows(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 75, err
    assert "at 6 px" not in out  # still in the first stage


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_75(start, run, finished, tmp_path, number):
    process = start(*TINY_FLAGS, f"--workdir={tmp_path}")
    wait_for_rows(process, tmp_path, 4)
    process.send_signal(number)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 75, err
    step = int(re.search(r"interrupted and saved at step (\d+)", out)[1])
    status, out, err = train(run, tmp_path)
    assert status == 0, err
    assert f"resume   from step {step}" in out  # nothing was lost
    assert numbers_by_step(tmp_path) == numbers_by_step(finished[0])


def test_a_signal_before_the_first_step_loses_nothing(start, run, tmp_path):
    process = start(*TINY_FLAGS, f"--workdir={tmp_path}")
    for line in process.stdout:
        if line.startswith("run "):
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 75, err
    assert "interrupted and saved at step 0" in out


def test_damaged_checkpoints(run, finished, tmp_path):
    """The latest one: the one before is taken. All of them: status 2, all kept."""
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    steps = saved_steps(workdir)

    def damage(step):
        for path in (workdir / "checkpoints" / str(step)).rglob("d/*"):
            path.write_bytes(bytes(len(path.read_bytes())))

    damage(steps[-1])
    status, out, err = train(run, workdir)
    assert status == 0, err
    assert f"checkpoint {steps[-1]} is damaged" in out
    assert f"resume   from step {steps[-2]}" in out
    assert numbers_by_step(workdir) == numbers_by_step(finished[0])
    for path in (workdir / "checkpoints").iterdir():
        if path.name.isdigit():
            damage(path.name)
    before = sorted((workdir / "checkpoints").rglob("*"))
    assert "every checkpoint" in only_error(train(run, workdir))
    assert sorted((workdir / "checkpoints").rglob("*")) == before


def test_a_disk_that_fills_up(start, tmp_path):
    """No file may grow beyond 16 kB: saves fail, then the run says so and stops."""
    limited = ("bash", "-c", 'ulimit -f 16; exec "$@"', "limited")
    process = start(
        *TINY_FLAGS,
        f"--workdir={tmp_path}",
        prefix=limited,
        JAX_ENABLE_COMPILATION_CACHE="false",
    )
    out, err = process.communicate(timeout=300)
    line = only_error((process.returncode, out, err))
    assert "could not save a checkpoint" in line
    assert "free some space" in line
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


def only_error(result):
    """The one line of a user error: status 2, no traceback."""
    status, _, err = result
    assert status == 2, err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), r"give --config=NAME; --config=digits runs anywhere"),
        (("--config=nfnet_f11",), r"unknown config 'nfnet_f11'; did you mean nfnet_f1"),
        (("--config=no/such.py",), r"no config file no/such\.py"),
        (("--config=digits", "--config.sed=1"), r"sed.*seed"),
        (("--config=digits", "--config.seed=abc"), r"seed.*abc"),
        (("--config=digits", "--config.model=nfnet_f11"), r"unknown model.*nfnet_f1"),
        (("--config=digits", "--config.batch_size=-1"), r"batch_size is -1"),
        (("--config=digits", "--confg.seed=1"), r"confg"),
        (("--config=digits", "seed=1"), r"unexpected argument 'seed=1'"),
        (("--config=digits", "--config.seed=None"), r"config\.seed is None"),
        (("--config=digits", "--config.eval.crop=centre"), r"'centre'.*resize_crop"),
        (
            ("--config=digits", "--workdir=gs://bucket/run"),
            r"needed for gs://bucket/run.*\[gcs\]",
        ),
        (
            ("--config=digits", "--config.data.source=folder:/no/where"),
            r"/no/where.*--config=digits",
        ),
        (
            ("--config=nfnet_f0", "--config.data.data_dir=/no/where"),
            r"/no/where.*experiments/prepare\.py imagenet2012.*--config=digits",
        ),
        (
            ("--config=nfnet_f0", "--config.data.data_dir=gs://bucket/data"),
            r"needed for gs://bucket/data.*\[gcs\]",
        ),
        (
            ("--config=digits", "--config.eval.split=holdout"),
            r"eval\.split is holdout.*10000",
        ),
        (("--config=digits", "--mode=eval"), r"there is no checkpoint in .*init_from"),
        (("--config=digits", "--config.data.source=cifar"), r"'cifar'.*folder:"),
        (
            ("--config=digits", "--config.optim.no_clip=classifier"),
            r"'classifier' matches no parameter",
        ),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, flags, message):
    workdir = tmp_path / "run"
    line = only_error(run(f"--workdir={workdir}", *flags))
    assert re.search(message, line), line
    assert not workdir.exists()  # nothing half-written


def test_batch_that_does_not_divide_over_devices(run, tmp_path):
    line = only_error(
        run(
            *TINY_FLAGS,
            "--config.batch_size=64",
            f"--workdir={tmp_path}",
            devices=3,
        )
    )
    assert "batch_size 64 does not divide over 3 devices" in line
    assert "--config.batch_size=63" in line


def test_workdir_of_another_config(run, finished):
    workdir, _ = finished
    before = {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()}
    line = only_error(train(run, workdir, "--config.seed=5"))
    assert "seed: 0 -> 5" in line
    assert {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()} == before


def test_workdir_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in only_error(train(run, tmp_path / "file"))


def test_non_finite_numbers_stop_the_run_with_status_3(run, tmp_path):
    status, _, err = train(
        run,
        tmp_path,
        "--config.optim.lr_per_256=1e30",
        "--config.optim.warmup_epochs=0",
        "--config.max_nonfinite_steps=5",
    )
    assert status == 3, err
    assert "updates in a row were not finite" in err
    rows = [row for row in rows_of(tmp_path) if "train/loss" in row]
    assert rows[-1]["train/skipped_total"] >= 5
    assert rows[-1]["train/loss"] is None


def test_list_names_configs_and_models(run):
    status, out, _ = run("--list")
    assert status == 0
    assert {"digits", "nfnet_f0", "nfnet_f6_sam", "nf_regnet_b8"} <= set(out.split())


def test_output_that_nobody_reads_ends_the_program_in_one_line():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, ROOT / "experiments" / "run.py", "--list"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    assert ended.stderr == "ended: nobody reads the output any more\n"
    assert ended.returncode == 1


def test_print_config_shows_formulas_after_overrides(run):
    status, out, _ = run(
        "--config.batch_size=8192", "--print_config", "--config", "nfnet_f1"
    )
    assert status == 0
    shown = json.loads(out)
    assert shown["derived"]["peak_lr"] == 3.2
    assert shown["derived"]["total_steps"] == 1281167 * 360 // 8192
    assert shown["changes"] == {"batch_size": "4096 -> 8192"}
    assert shown["recipe"]["optim"]["agc_clipping"] == 0.01


def test_dry_run_needs_no_data(run, tmp_path):
    status, out, err = run(
        *TINY_FLAGS, "--dry_run", "--config.data.source=folder:/none"
    )
    assert status == 0, err
    assert re.search(r"model .*M parameters, .* GMACs at 8 px", out)
    assert "classes  10, the recipe's own; training asks the data" in out
    assert re.search(r"memory .* GB a device of", out)
    assert re.search(r"step .*synthetic data, loss \d", out)
