"""Training that hangs, or fails in one process of two: all of them end in time."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fault_data import write_noise_folder
from fault_trials import GRACE_S, HEARTBEAT_S, Lab, Row, Trial, all_gone
from real_program import SMALL_FLAGS, Process, rows_of, wait_until

# Longer than compiling takes on a busy machine.
WATCHDOG_S = 40
# Of those seen, or in a row: which limit is met first depends on what was read ahead.
TOO_MANY_DAMAGED = (
    r"error: process 1: .*(damaged images among|\d+ records in a row are damaged)"
)
# Without a row for so long, nothing is trained any more.
QUIET_S = 5
ONLY_STEPS = ("--config.eval.every_epochs=100", "--config.checkpoint_every_steps=1000")


def block(folder: Path) -> None:
    """Whoever reads an image of the folder now waits for ever."""
    for path in folder.rglob("*.png"):
        path.unlink()
        os.mkfifo(path)


def spoil(folder: Path) -> None:
    """Every image of the folder is damaged now."""
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")


def break_metrics(workdir: Path) -> None:
    """The next row meets a full disk."""
    (workdir / "metrics.jsonl").rename(workdir / "moved.jsonl")
    (workdir / "metrics.jsonl").symlink_to("/dev/full")


def pair_in_trouble(
    lab: Lab,
    directory: Path,
    trouble: Callable[[Path, list[Process]], None],
    limit_s: float,
    message: str,
    *flags: str,
) -> list[int]:
    """Two processes train, each on its own copy of the images, until ``trouble``.

    The statuses, after all were gone within the limit and one said the message, a
    regular expression.
    """
    homes = [directory / f"home_{index}" for index in range(2)]
    for home in homes:
        write_noise_folder(home / "images", per_class=60, test_per_class=6)
    outputs = [directory / f"output_{index}.txt" for index in range(2)]
    workdir = directory / "run"
    started = lab.program.start_several(
        2,
        *SMALL_FLAGS,
        f"--workdir={workdir}",
        "--config.data.source=folder:images",
        "--config.num_epochs=100",
        "--config.eval.every_epochs=2",
        f"--config.watchdog_minutes={WATCHDOG_S / 60}",
        f"--heartbeat_s={HEARTBEAT_S}",
        *flags,
        cwds=homes,
        outputs=outputs,
    )
    wait_until(lambda: len(rows_of(workdir)) >= 3, started)
    trouble(directory, started)
    try:
        statuses = all_gone(started, limit_s + GRACE_S)
    finally:
        for process in started:
            process.kill()
    said = "".join(output.read_text() for output in outputs)
    assert re.search(message, said), said
    assert not {0, 75} & set(statuses), (statuses, said)
    return statuses


def hang(images: Path, workdir: Path, started: list[Process]) -> None:
    """Blocks the reader, and waits until what it had read ahead was trained on."""
    block(images / "train")
    seen, since = -1, time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        rows = len(rows_of(workdir))
        if rows != seen:
            seen, since = rows, time.monotonic()
        return time.monotonic() - since > QUIET_S

    wait_until(is_quiet, started)


def loader_hangs(lab: Lab, directory: Path) -> int:
    statuses = pair_in_trouble(
        lab,
        directory,
        lambda folder, started: hang(
            folder / "home_1" / "images", folder / "run", started
        ),
        WATCHDOG_S - QUIET_S,
        "where every thread waits",
        *ONLY_STEPS,
    )
    assert 76 in statuses, statuses
    return 1


def peer_stops(lab: Lab, directory: Path) -> int:
    """A process that is stopped can only go when it is let on."""

    def stop(_: Path, started: list[Process]) -> None:
        started[1].send_signal(signal.SIGSTOP)
        assert started[0].wait(timeout=HEARTBEAT_S + GRACE_S)
        started[1].send_signal(signal.SIGCONT)

    pair_in_trouble(lab, directory, stop, HEARTBEAT_S, "")
    return 1


def one_fails(lab: Lab, directory: Path, home: str, split: str, message: str) -> int:
    pair_in_trouble(
        lab,
        directory,
        lambda folder, _: spoil(folder / home / "images" / split),
        HEARTBEAT_S,
        message,
    )
    return 1


def alone_hangs(lab: Lab, directory: Path) -> int:
    """One process whose reader waits for ever: status 76 and the stacks."""
    images = write_noise_folder(directory / "images", per_class=60, test_per_class=6)
    output, workdir = directory / "output.txt", directory / "run"
    process = lab.program.start(
        *SMALL_FLAGS,
        f"--workdir={workdir}",
        f"--config.data.source=folder:{images}",
        "--config.num_epochs=100",
        f"--config.watchdog_minutes={WATCHDOG_S / 60}",
        *ONLY_STEPS,
        output=output,
    )
    wait_until(lambda: len(rows_of(workdir)) >= 3, [process])
    hang(images, workdir, [process])
    statuses = all_gone([process], WATCHDOG_S - QUIET_S + GRACE_S)
    said = output.read_text()
    assert statuses == [76], (statuses, said)
    assert "nothing was finished for" in said
    assert "Thread" in said
    return 1


def hangs(lab: Lab, count: int) -> Iterator[Trial]:
    del count
    yield Trial("the reader of the only process hangs", lambda d: alone_hangs(lab, d))
    yield Trial("the reader of process 1 hangs", lambda d: loader_hangs(lab, d))
    yield Trial("process 1 is stopped", lambda d: peer_stops(lab, d))
    yield Trial(
        "an error in process 1",
        lambda d: one_fails(lab, d, "home_1", "train", TOO_MANY_DAMAGED),
    )


def fails_between_steps(lab: Lab, count: int) -> Iterator[Trial]:
    del count
    yield Trial(
        "an evaluation image of process 1",
        lambda d: one_fails(lab, d, "home_1", "test", "evaluation image"),
    )
    yield Trial("a row of process 0", lambda d: row_fails(lab, d))


def row_fails(lab: Lab, directory: Path) -> int:
    pair_in_trouble(
        lab,
        directory,
        lambda folder, _: break_metrics(folder / "run"),
        HEARTBEAT_S,
        "cannot write",
    )
    return 1


ROWS = (
    Row(
        "R12",
        "a reader hangs (one process, one of two), one of two is stopped, one fails: "
        "all gone within the limit + 10 s; the watchdog prints all stacks, status 76",
        4,
        hangs,
    ),
    Row(
        "R20",
        "an evaluation fails in process 1, a row cannot be written by process 0: the "
        "same",
        2,
        fails_between_steps,
    ),
)
