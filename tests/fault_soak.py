"""A long run: what it holds does not grow."""

from __future__ import annotations

import dataclasses
import os
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from fault_trials import Lab, Row, Trial
from real_program import TINY_FLAGS, rows_of


@dataclasses.dataclass(frozen=True)
class Use:
    """What a process holds: resident memory in MB, open files, threads."""

    memory: float
    files: int
    threads: int


def use_of(pid: int) -> Use:
    """Of a process, by Linux's /proc."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE))
    files = len(os.listdir(f"/proc/{pid}/fd"))
    return Use(int(found["VmRSS"]) / 1024, files, int(found["Threads"]))


def soaked(lab: Lab, directory: Path, steps: int) -> int:
    """Nothing grows in the second half of a run."""
    workdir, output = directory / "run", directory / "output.txt"
    process = lab.program.start(
        *TINY_FLAGS,
        f"--config.num_epochs={steps * 48 / 1437 + 0.01}",
        f"--config.checkpoint_every_steps={max(1, steps // 20)}",
        f"--config.eval.every_epochs={steps * 48 / 1437 / 5}",
        f"--workdir={workdir}",
        output=output,
    )
    uses: list[tuple[int, Use]] = []
    while process.poll() is None:
        try:
            rows = rows_of(workdir)
            uses.append((rows[-1]["step"] if rows else 0, use_of(process.pid)))
        except (OSError, KeyError):  # it ends
            break
        time.sleep(0.3)
    assert process.wait() == 0, output.read_text()
    early = [use for step, use in uses if steps / 4 < step <= steps / 2]
    late = [use for step, use in uses if 3 * steps / 4 < step < steps]
    for name, room in (("memory", 1.05), ("files", 1.0), ("threads", 1.0)):
        before, after = (
            statistics.median(getattr(use, name) for use in some)
            for some in (early, late)
        )
        print(
            f"R19 {name}: {before:.0f} in the second quarter, {after:.0f} in the last"
        )
        assert after <= before * room, (name, before, after)
    return 1


def soak(lab: Lab, count: int) -> Iterator[Trial]:
    yield Trial(f"{count} steps, 20 saves", lambda d: soaked(lab, d, count))


ROWS = (
    Row(
        "R19",
        "2000 steps with 20 saves: memory within 5 %, open files and threads do not "
        "grow",
        2000,
        soak,
    ),
)
