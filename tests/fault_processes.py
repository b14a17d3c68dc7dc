"""Several processes: other layouts, and starts that fail."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from fault_disk import arrays_of
from fault_numbers import replicas_stay_equal
from fault_trials import GRACE_S, HEARTBEAT_S, Lab, Row, Trial, all_gone
from helpers import ROOT
from real_program import (
    SMALL_FLAGS,
    Process,
    assert_close_numbers,
    ends,
    free_port,
    resumed_from,
    rows_of,
    saved_steps,
    wait_until,
)

JOIN_S = 10
# Processes x devices of each.
LAYOUTS = ((1, 4), (1, 1), (2, 1), (4, 1))


def stopped_pair(lab: Lab) -> Path:
    """A run that two processes of two devices left after a third; made once."""
    workdir = lab.home / "stopped_pair"
    if not workdir.exists():
        workdir.mkdir()
        started = lab.program.start_several(2, *SMALL_FLAGS, f"--workdir={workdir}")
        wait_until(lambda: len(rows_of(workdir)) >= 8, started)
        started[0].send_signal(signal.SIGTERM)
        results = ends(started)
        assert [status for status, _, _ in results] == [75, 75], results
    return workdir


def goes_on(lab: Lab, directory: Path, count: int, devices: int) -> int:
    """Goes on with another layout; the rest is that of one process of four devices."""
    workdir = directory / "run"
    shutil.copytree(stopped_pair(lab), workdir)
    before = saved_steps(workdir)[-1]
    flags = (*SMALL_FLAGS, f"--workdir={workdir}")
    results = ends(lab.program.start_several(count, *flags, devices=devices))
    assert {status for status, _, _ in results} == {0}, results
    assert resumed_from(results[0][1]) == before  # every array has its sha256
    assert_close_numbers(workdir, lab.reference(*SMALL_FLAGS, devices=4))
    return 1


def other_layouts(lab: Lab, count: int) -> Iterator[Trial]:
    del count
    for processes, devices in LAYOUTS:
        yield Trial(
            f"2 x 2 goes on as {processes} x {devices}",
            lambda directory, p=processes, d=devices: goes_on(lab, directory, p, d),
        )


def same_training(lab: Lab, count: int, devices: int) -> int:
    """Rows and the last parameters are those of one process of four devices."""
    reference = lab.reference(*SMALL_FLAGS, devices=4)
    workdir = lab.reference(*SMALL_FLAGS, count=count, devices=devices)
    assert_close_numbers(workdir, reference)
    ours, theirs = (
        arrays_of(run / "checkpoints", saved_steps(run)[-1])
        for run in (workdir, reference)
    )
    for name in theirs:
        if name.startswith("params/"):
            np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    return 1


def same_layouts(lab: Lab, count: int) -> Iterator[Trial]:
    del count
    for processes, devices in ((1, 1), (2, 2)):
        yield Trial(
            f"{processes} x {devices} trains as 1 x 4",
            lambda _, p=processes, d=devices: same_training(lab, p, d),
        )
    yield Trial("four replicas in 20 steps", lambda _: replicas_stay_equal())


def start_alone(
    lab: Lab,
    directory: Path,
    port: int,
    index: int,
    *flags: str,
    count: int = 2,
    **variables: str,
) -> Process:
    """Starts one of two processes, which join for some seconds only."""
    address = f"127.0.0.1:{port}"
    return lab.program.start(
        *SMALL_FLAGS,
        f"--workdir={directory / 'run'}",
        f"--coordinator={address}",
        f"--num_processes={count}",
        f"--process_id={index}",
        f"--join_timeout_s={JOIN_S}",
        f"--heartbeat_s={HEARTBEAT_S}",
        *flags,
        output=directory / f"output_{index}_{count}_{len(flags)}.txt",
        **variables,
    )


def do_not_start(
    directory: Path, started: Sequence[Process], message: str, limit_s: float
) -> int:
    """All end with an error within a limit from when they wait, and one says why."""

    def said() -> str:
        return "".join(path.read_text() for path in directory.glob("output_*"))

    def all_wait() -> bool:
        ended = sum(process.poll() is not None for process in started)
        return ended + said().count("waiting up to") >= len(started)

    wait_until(all_wait, ())
    statuses = all_gone(started, limit_s)
    assert not {0, 75} & set(statuses), (statuses, said())
    assert re.search(message, said()), said()
    assert not (directory / "run" / "metrics.jsonl").exists()
    return 1


def other_code(lab: Lab, directory: Path, limit_s: float) -> int:
    """One file of process 1's code has another comment."""
    copy = directory / "copy"
    for package in ("nfnets", "effnetv2", "resnet_rs"):
        shutil.copytree(ROOT / package, copy / package)
    with (copy / "nfnets" / "training" / "lamb.py").open("a") as file:
        file.write("# Changed.\n")
    port = free_port()
    started = [
        start_alone(lab, directory, port, 0),
        start_alone(lab, directory, port, 1, PYTHONPATH=str(copy)),
    ]
    return do_not_start(directory, started, "do not have the same code", limit_s)


def failed_starts(lab: Lab, count: int) -> Iterator[Trial]:
    del count
    limit = JOIN_S + GRACE_S

    def trial(name: str, message: str, *starts: tuple) -> Trial:
        def run(directory: Path) -> int:
            port = free_port()
            started = [
                start_alone(lab, directory, port, index, *flags, count=number)
                for index, number, *flags in starts
            ]
            # Those who have met look at each other's settings first.
            patience = 3 * limit if len(starts) > 1 else limit
            return do_not_start(directory, started, message, patience)

        return Trial(name, run)

    deadline = "waiting up to 10 s for the others at .*(\n.*)*DEADLINE_EXCEEDED"
    yield trial("no coordinator", deadline, (1, 2))
    yield trial("no peer", deadline, (0, 2))
    yield trial(
        "two and three processes",
        "--num_processes=3, but the others say 2",
        (0, 2),
        (1, 3),
    )
    yield trial(
        "the same id twice",
        "different incarnation",
        (0, 2),
        (1, 2),
        (1, 2, "--config.seed=0"),
    )
    yield trial(
        "different settings",
        "the processes do not have the same config",
        (0, 2),
        (1, 2, "--config.seed=1"),
    )
    yield Trial(
        "different code", lambda directory: other_code(lab, directory, 3 * limit)
    )


ROWS = (
    Row(
        "R9",
        "saved by 2 processes x 2 devices, goes on as 1 x 4, 1 x 1, 2 x 1, 4 x 1: "
        "every array restored with its sha256, later numbers within a relative 1e-5",
        4,
        other_layouts,
    ),
    Row(
        "R10",
        "1 x 1 and 2 x 2 train as 1 x 4 (29 steps): logged numbers within a relative "
        "1e-5, parameters within 1e-6; the four replicas of one process stay equal, to "
        "the last bit",
        3,
        same_layouts,
    ),
    Row(
        "R11",
        "no coordinator, no peer, other counts, an id twice, other settings or code: "
        "an error that names the cause; those who wait end within their limit + 10 s",
        6,
        failed_starts,
    ),
)
