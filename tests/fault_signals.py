"""SIGTERM and SIGINT, at any moment: everything is saved, and status 75 says so."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_trials import Lab, Row, Trial, assert_same_run, run_again
from real_program import (
    SMALL_FLAGS,
    TINY_FLAGS,
    ends,
    resumed_from,
    rows_of,
    wait_until,
)

LIMIT_S = 30
# An evaluation of 360 batches, long enough to be met.
SLOW_EVALUATION = (*TINY_FLAGS, "--config.eval.batch_size=1")
FIRST_EVALUATION = 30


def leave_within(started: list, outputs: list[Path]) -> int:
    """Waits for status 75 of all; gives the step that was saved."""
    deadline = time.monotonic() + LIMIT_S
    for process in started:
        status = process.wait(timeout=max(0.1, deadline - time.monotonic()))
        assert status == 75, [output.read_text() for output in outputs]
    said = re.search(r"interrupted and saved at step (\d+)", outputs[0].read_text())
    assert said is not None, outputs[0].read_text()
    return int(said[1])


def stopped_alone(
    lab: Lab,
    workdir: Path,
    flags: tuple[str, ...],
    number: signal.Signals,
    has_come: Callable[[str], bool],
) -> int:
    """Sends a signal at a moment that the directory and the output tell."""
    output = workdir / "output.txt"
    process = lab.program.start(*flags, f"--workdir={workdir}", output=output)
    wait_until(lambda: has_come(output.read_text()), [process])
    process.send_signal(number)
    step = leave_within([process], [output])
    out = run_again(lab, lab.reference(*flags), workdir, flags)
    assert resumed_from(out) == (step if rows_of(workdir) and step else None), out
    return 1


def stopped_together(lab: Lab, workdir: Path, victim: int) -> int:
    """Sends SIGTERM to one of two processes."""
    reference = lab.reference(*SMALL_FLAGS, count=2, devices=2)
    flags = (*SMALL_FLAGS, f"--workdir={workdir}")
    outputs = [workdir / f"output_{index}.txt" for index in range(2)]
    started = lab.program.start_several(2, *flags, outputs=outputs)
    wait_until(lambda: len(rows_of(workdir)) >= 2, started)
    started[victim].send_signal(signal.SIGTERM)
    step = leave_within(started, outputs)
    results = ends(lab.program.start_several(2, *flags))
    assert [status for status, _, _ in results] == [0, 0], results
    assert resumed_from(results[0][1]) == step
    assert_same_run(workdir, reference)
    return 1


def signals(lab: Lab, count: int) -> Iterator[Trial]:
    del count
    for number in (signal.SIGTERM, signal.SIGINT):
        yield Trial(
            f"{number.name} to one process",
            lambda workdir, number=number: stopped_alone(
                lab, workdir, TINY_FLAGS, number, lambda _: len(rows_of(workdir)) >= 4
            ),
        )
    for victim in range(2):
        yield Trial(
            f"SIGTERM to process {victim} of 2",
            lambda workdir, victim=victim: stopped_together(lab, workdir, victim),
        )


def is_evaluating(workdir: Path) -> bool:
    """Between the training row and the evaluation's."""
    return any(row["step"] == FIRST_EVALUATION for row in rows_of(workdir))


def moments(lab: Lab, count: int) -> Iterator[Trial]:
    del count
    term = signal.SIGTERM
    yield Trial(
        "before the first step",
        lambda workdir: stopped_alone(
            lab, workdir, TINY_FLAGS, term, lambda said: "\nrun " in said
        ),
    )
    yield Trial(
        "during a save",
        lambda workdir: stopped_alone(
            lab,
            workdir,
            TINY_FLAGS,
            term,
            lambda _: any((workdir / "checkpoints").glob("*tmp*")),
        ),
    )
    yield Trial("during an evaluation", lambda workdir: while_evaluating(lab, workdir))


def while_evaluating(lab: Lab, workdir: Path) -> int:
    stopped_alone(
        lab,
        workdir,
        SLOW_EVALUATION,
        signal.SIGTERM,
        lambda _: is_evaluating(workdir),
    )
    said = [row for row in rows_of(workdir) if "event" in row]
    assert [row["step"] for row in said] == [FIRST_EVALUATION], said
    return 1


ROWS = (
    Row(
        "R4",
        "SIGTERM, SIGINT; SIGTERM to either of two processes: all save the same step "
        f"and end with status 75 within {LIMIT_S} s; nothing is lost, no bit differs",
        4,
        signals,
    ),
    Row(
        "R5",
        "SIGTERM before the first step, during a save, during an evaluation: the same",
        3,
        moments,
    ),
)
