"""kill -9 at random moments: of one process, of two, with every augmentation."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fault_data import write_noise_folder
from fault_trials import (
    GRACE_S,
    HEARTBEAT_S,
    Lab,
    Row,
    Trial,
    all_gone,
    assert_same_run,
    run_again,
)
from real_program import (
    SMALL_FLAGS,
    TINY_FLAGS,
    Process,
    ends,
    resumed_from,
    rows_of,
    saved_steps,
)

# Kills in one run; it has steps for more.
KILLS_PER_RUN = 10


def wait_for_a_moment(
    generator: random.Random, started: Sequence[Process], workdir: Path, kinds: str
) -> None:
    """Waits for a random moment of one of these kinds, or until a process ends.

    "start": anything from the first line of the program on; "rows": some rows later,
    while training or evaluating; "save": while a checkpoint is written.
    """
    kind = generator.choice(kinds.split())
    # Before the first row what an earlier kill left of a save may still be there.
    rows = 1 if kind == "save" else generator.randint(1, 10)
    wanted = len(rows_of(workdir)) + rows
    delay = {"start": 10.0, "rows": 0.1, "save": 0.03}[kind]

    def has_come() -> bool:
        if kind == "start":
            return True
        saves = kind != "save" or any((workdir / "checkpoints").glob("*tmp*"))
        return saves and len(rows_of(workdir)) >= wanted

    def goes_on() -> bool:
        return all(process.poll() is None for process in started)

    while goes_on() and not has_come():
        time.sleep(0.002)
    end = time.monotonic() + generator.uniform(0, delay)
    while goes_on() and time.monotonic() < end:
        time.sleep(0.001)


def check_resumed(output: str, committed: list[int]) -> None:
    """A run goes on from the last checkpoint that was complete, and finds all whole."""
    assert "damaged" not in output, output
    step = resumed_from(output)
    assert step is None or step == max(committed, default=0), (step, committed, output)


def killed_again_and_again(
    lab: Lab, workdir: Path, flags: Sequence[str], kills: int, kinds: str
) -> int:
    """Kills a run so many times, and lets it end; gives the kills that hit it."""
    reference = lab.reference(*flags)
    hit = 0
    for number in range(kills):
        committed = saved_steps(workdir)
        output = workdir / f"output_{number}.txt"
        process = lab.program.start(*flags, f"--workdir={workdir}", output=output)
        wait_for_a_moment(lab.generator, [process], workdir, kinds)
        process.kill()
        status = process.wait()
        check_resumed(output.read_text(), committed)
        assert status in (0, -signal.SIGKILL), output.read_text()
        if status == 0:  # it was done already
            break
        hit += 1
    committed = saved_steps(workdir)
    check_resumed(run_again(lab, reference, workdir, flags), committed)
    return hit


def kills_of_one(lab: Lab, count: int) -> Iterator[Trial]:
    flags = (*TINY_FLAGS, "--config.num_epochs=10")  # 299 steps
    for first in range(0, count, KILLS_PER_RUN):
        kills = min(KILLS_PER_RUN, count - first)
        yield Trial(
            f"{kills} kills of one run",
            lambda workdir, kills=kills: killed_again_and_again(
                lab, workdir, flags, kills, "start rows rows save"
            ),
        )


def kills_with_augmentation(lab: Lab, count: int) -> Iterator[Trial]:
    folder = write_noise_folder(lab.home / "noise", per_class=15, test_per_class=3)
    flags = (
        *TINY_FLAGS,
        f"--config.data.source=folder:{folder}",
        "--config.batch_size=12",
        "--config.num_epochs=12",  # 60 steps of 12 of 60 images
        "--config.log_every_steps=1",
        "--config.eval.every_epochs=5",
        "--config.stochastic_depth_rate=0.2",
        "--config.data.threads=2",
        "--config.augment.crop=tf_box",
        "--config.augment.flip_rate=0.5",
        "--config.augment.mixup_alpha=0.2",
        "--config.augment.cutmix_alpha=1.0",
        "--config.augment.randaugment_layers=2",
        "--config.augment.randaugment_magnitude=5.0",
        "--config.augment.erase_rate=0.25",
    )
    yield Trial(
        f"{count} kills in 60 steps with every augmentation",
        lambda workdir: killed_again_and_again(
            lab, workdir, flags, count, "rows rows save"
        ),
    )


def pair_killed_again_and_again(lab: Lab, workdir: Path, kills: int) -> int:
    """As above with two processes of two devices; the victim is one or both."""
    flags = (*SMALL_FLAGS, "--config.num_epochs=3.0", f"--heartbeat_s={HEARTBEAT_S}")
    reference = lab.reference(*flags, count=2, devices=2)
    hit = 0
    for number in range(kills):
        committed = saved_steps(workdir)
        outputs = [workdir / f"output_{number}_{index}.txt" for index in range(2)]
        started = lab.program.start_several(
            2, *flags, f"--workdir={workdir}", outputs=outputs
        )
        wait_for_a_moment(lab.generator, started, workdir, "rows rows save")
        for index in lab.generator.choice(((0,), (1,), (0, 1))):
            started[index].kill()
        statuses = all_gone(started, HEARTBEAT_S + GRACE_S)
        check_resumed(outputs[0].read_text(), committed)
        if statuses == [0, 0]:
            break
        assert not {0, 75} & set(statuses), (statuses, outputs[0].read_text())
        hit += 1
    committed = saved_steps(workdir)
    results = ends(lab.program.start_several(2, *flags, f"--workdir={workdir}"))
    assert [status for status, _, _ in results] == [0, 0], results
    check_resumed(results[0][1], committed)
    assert_same_run(workdir, reference)
    return hit


def kills_of_two(lab: Lab, count: int) -> Iterator[Trial]:
    for first in range(0, count, KILLS_PER_RUN):
        kills = min(KILLS_PER_RUN, count - first)
        yield Trial(
            f"{kills} kills of two processes",
            lambda workdir, kills=kills: pair_killed_again_and_again(
                lab, workdir, kills
            ),
        )


ROWS = (
    Row(
        "R1",
        "kill -9 at random moments (start, training, evaluation, mid-save), one "
        "process: goes on from the last complete checkpoint, bit-equal to an "
        "uninterrupted run",
        50,
        kills_of_one,
    ),
    Row(
        "R2",
        "the same with two processes, one or both killed: the other ends with an error "
        f"within the heartbeat ({HEARTBEAT_S} s) + {GRACE_S} s; bit-equal after all",
        10,
        kills_of_two,
    ),
    Row(
        "R3",
        "kill -9 of a run of 60 steps with random crops, flips, RandAugment, mixup, "
        "cutmix, erasing, dropout and two reading threads: no bit differs",
        3,
        kills_with_augmentation,
    ),
)
