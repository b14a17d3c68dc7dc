"""The launch scripts, with the programs of a cluster replaced by small stand-ins."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xla_flags
import yaml
from helpers import CONFIG_DIR, ROOT, TINY

from nfnets.command_line import recipe_of_arguments

LAUNCH = ROOT / "experiments" / "launch"
FLAGS = [
    "--config=digits",
    *(f"--config.model_overrides.{field}={value}" for field, value in TINY.items()),
    "--config.batch_size=48",
    "--config.num_epochs=1.0",  # 29 steps
    "--config.checkpoint_every_steps=5",
    "--config.log_every_steps=1",
]
# Starts a process per task as srun does, and passes signals on; the highest status.
SRUN = """#!{python}
import os, signal, subprocess, sys
command = [a for a in sys.argv[1:] if not a.startswith("--kill")]
def of_task(i):
    return os.environ | dict(
        SLURM_JOB_ID="17", SLURM_STEP_NODELIST="127.0.0.1", SLURM_NTASKS="2",
        SLURM_STEP_NUM_NODES="1", SLURM_PROCID=str(i), SLURM_LOCALID=str(i))
tasks = [subprocess.Popen(command, env=of_task(i)) for i in range(2)]
signal.signal(signal.SIGTERM, lambda *_: [t.send_signal(15) for t in tasks])
sys.exit(max(abs(t.wait()) for t in tasks))
"""


@pytest.fixture
def programs(tmp_path: Path):
    """Makes a folder that comes first in PATH; gives a way to put programs there."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def put(name: str, text: str) -> None:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    return put


@pytest.fixture
def environment(tmp_path: Path, tmp_path_factory):
    return os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "WAIT": "0",
        "JAX_NUMPY_RANK_PROMOTION": "allow",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "launched"),
        "XLA_FLAGS": xla_flags.devices(1),
    }


def restarted(statuses: list[int], tmp_path: Path, environment, retries=3):
    """The script's status, and how often it ran a command that ends so."""
    script, log = tmp_path / "command.sh", tmp_path / "attempts"
    script.write_text(
        f"echo run >>{log}\nset -- {' '.join(map(str, statuses))}\n"
        f"shift $(($(wc -l <{log}) - 1))\nexit $1\n"
    )
    command = [LAUNCH / "restart.sh", "bash", script]
    environment = environment | {"RETRIES": str(retries)}
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    return ended.returncode, len(log.read_text().splitlines())


@pytest.mark.parametrize(
    ("statuses", "status", "attempts"),
    [
        ([0], 0, 1),
        ([2], 2, 1),
        ([3], 3, 1),
        ([75], 75, 1),
        ([1, 76, 137, 0], 0, 4),
        ([134, 2], 2, 2),
        ([1, 1, 1, 1, 0], 1, 4),
    ],
)
def test_what_can_be_helped_is_tried_again(
    tmp_path, environment, statuses, status, attempts
):
    assert restarted(statuses, tmp_path, environment) == (status, attempts)


def wait_for_step(workdir: Path, process) -> None:
    rows = workdir / "metrics.jsonl"
    while not (rows.exists() and rows.read_text().count("\n") >= 7):
        assert process.poll() is None
        time.sleep(0.1)


def test_a_signal_is_the_runs_which_saves(tmp_path, environment):
    script = tmp_path / "run.sh"
    script.write_text('trap "sleep 1; exit 75" TERM\necho ready\nsleep 20 & wait\n')
    command = [LAUNCH / "restart.sh", "bash", script]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"ready\n"
        started.send_signal(signal.SIGTERM)
        assert started.wait(timeout=30) == 75


def test_one_gpu_goes_on_after_a_kill(tmp_path, environment):
    command = [LAUNCH / "one_gpu.sh", *FLAGS, f"--workdir={tmp_path / 'run'}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = subprocess.Popen(command, env=environment, text=True, **pipes)
    wait_for_step(tmp_path / "run", started)
    subprocess.run(["pkill", "-KILL", "-P", str(started.pid)], check=True)
    output, errors = started.communicate(timeout=200)
    assert started.returncode == 0
    assert "restart: status 137, attempt 1 of 20" in errors
    assert "resumed" in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "29/29" in output


def test_slurm_saves_before_the_limit_and_goes_on(tmp_path, environment, programs):
    programs("srun", SRUN.format(python=sys.executable))
    programs("scontrol", f'#!/bin/sh\necho "$@" >>{tmp_path}/scontrol\n')
    command = ["bash", LAUNCH / "slurm.sh", *FLAGS, f"--workdir={tmp_path / 'run'}"]
    options = dict(env=environment | {"SLURM_JOB_ID": "17"}, cwd=ROOT, text=True,
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    job = subprocess.Popen(command, **options)
    wait_for_step(tmp_path / "run", job)
    subprocess.run(["pkill", "-TERM", "-P", str(job.pid)], check=True)  # srun
    output, _ = job.communicate(timeout=200)
    assert job.returncode == 75, output
    assert (tmp_path / "scontrol").read_text() == "requeue 17\n"
    output = subprocess.run(command, check=False, **options).stdout
    assert "29/29" in output
    assert (tmp_path / "scontrol").read_text() == "requeue 17\n"


def test_slurm_gives_up_what_cannot_be_helped(tmp_path, environment, programs):
    programs("scontrol", f'#!/bin/sh\necho "$@" >>{tmp_path}/scontrol\n')
    for status, restarts, requeued in ((2, 0, 0), (3, 0, 0), (1, 0, 1), (1, 20, 1)):
        programs("srun", f"#!/bin/sh\nexit {status}\n")
        counts = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(restarts)}
        ended = subprocess.run(
            ["bash", LAUNCH / "slurm.sh"],
            env=environment | counts,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == status
        log = tmp_path / "scontrol"
        assert (log.read_text().count("\n") if log.exists() else 0) == requeued


def test_kubernetes_starts_every_host_with_its_number():
    _, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    (variable,) = container["env"]
    assert spec["completions"] == spec["parallelism"] == int(variable["value"])
    (script,) = container["args"]
    environment = {"NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "3"}
    shown = script.replace("exec python", "printf '%s\\n'")
    echoed = subprocess.run([*container["command"], shown], env=environment,
                            capture_output=True, text=True, check=True)  # fmt: skip
    program, *flags = echoed.stdout.splitlines()
    assert program == "experiments/run.py"
    assert {"--num_processes=4", "--process_id=3"} < set(flags)
    own = [flag for flag in flags if flag.startswith("--config")]
    assert recipe_of_arguments(own, CONFIG_DIR).name == "nfnet_f1"


def test_tpu_pod_makes_the_slice_once_and_starts_all_hosts(
    tmp_path, environment, programs
):
    log, state = tmp_path / "gcloud", tmp_path / "state"
    programs(
        "gcloud",
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>{log}\n'
        f'case "$*" in *describe*) cat {state} 2>/dev/null;; esac\n',
    )
    slice_of = {"TPU": "f1", "ZONE": "us-central2-b", "TYPE": "v4-32"}

    def calls(*arguments: str) -> list[str]:
        log.unlink(missing_ok=True)
        command = ["bash", LAUNCH / "tpu_pod.sh", *arguments]
        subprocess.run(command, env=environment | slice_of, check=True)
        lines = log.read_text().replace(" &&\n", " && ").splitlines()
        return [line.removeprefix("compute tpus tpu-vm ") for line in lines]

    shape = "--config.augment.crop_area=(0.35, 1.0)"
    made = calls("--config=nfnet_f1", shape)
    assert [call.split()[0] for call in made] == [
        "describe", "create", "scp", "ssh", "ssh",
    ]  # fmt: skip
    assert "--accelerator-type=v4-32" in made[1]
    assert "--worker=all" in made[4]
    command = made[4].partition("--command=")[2]
    assert shlex.split(command)[-2:] == ["--config=nfnet_f1", shape]
    state.write_text("READY\n")
    assert [call.split()[0] for call in calls()] == ["describe", "scp", "ssh", "ssh"]
    state.write_text("PREEMPTED\n")
    assert [call.split()[0] for call in calls()][:3] == ["describe", "delete", "create"]
