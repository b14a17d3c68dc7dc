"""What a fault test is made of: a row of the matrix, its trials, and how they ended."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from helpers import ROOT
from real_program import Process, Program, ends, last_digests, numbers_by_step

HEARTBEAT_S = 10
# Beyond a limit, for a busy machine to notice and to leave.
GRACE_S = 10


@dataclasses.dataclass(frozen=True)
class Lab:
    """What trials share.

    Attributes:
        home: where everything is written.
        program: the real program.
        generator: chooses moments and victims.
    """

    home: Path
    program: Program
    generator: random.Random

    def reference(self, *flags: str, count: int = 1, devices: int = 1) -> Path:
        """The work directory of a run that nothing disturbs; made once."""
        key = hashlib.sha256(repr((flags, count, devices)).encode()).hexdigest()[:12]
        workdir = self.home / f"reference_{key}"
        if not (workdir / "report.md").exists():
            started = self.program.start_several(
                count, *flags, f"--workdir={workdir}", devices=devices
            )
            for status, out, err in ends(started):
                assert status == 0, (out, err)
        return workdir


@dataclasses.dataclass(frozen=True)
class Trial:
    """One or several faults.

    Attributes:
        name: what is done.
        run: does it in a directory of its own, and raises when anything is lost.
            Gives the number of faults that took place.
    """

    name: str
    run: Callable[[Path], int]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the matrix.

    Attributes:
        id: "R1" and so on.
        what: what is done, and what has to hold.
        full: faults in the long version, of those whose number can be chosen.
        trials: makes the trials from the lab and that number.
    """

    id: str
    what: str
    full: int
    trials: Callable[[Lab, int], Iterable[Trial]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a row ended: faults survived, and a line for each trial that was lost."""

    row: Row
    survived: int
    lost: tuple[str, ...]
    seconds: float

    @property
    def trials(self) -> int:
        """Faults; of a trial that lost something one is counted."""
        return self.survived + len(self.lost)


def run_row(lab: Lab, row: Row, count: int) -> Outcome:
    """Runs a row's trials; the directory of a lost one is kept, and named."""
    begun = time.monotonic()
    survived, lost = 0, []
    for number, trial in enumerate(row.trials(lab, count)):
        directory = lab.home / row.id / str(number)
        directory.mkdir(parents=True)
        try:
            survived += trial.run(directory)
        except Exception:
            (directory / "lost.txt").write_text(traceback.format_exc())
            reason = traceback.format_exc(limit=-1)[-2000:]
            lost.append(f"{row.id}, {trial.name}, kept in {directory}: {reason}")
            print(f"LOST {lost[-1]}", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(directory)
        seconds = time.monotonic() - begun
        print(f"{row.id} {trial.name} (after {seconds:.0f} s)", flush=True)
    return Outcome(row, survived, tuple(lost), time.monotonic() - begun)


def all_gone(started: Sequence[Process], seconds: float) -> list[int]:
    """The statuses of processes that must all have ended within so many seconds."""
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in started):
        if time.monotonic() > deadline:
            stay = [i for i, process in enumerate(started) if process.poll() is None]
            for index in stay:
                started[index].kill()
            raise AssertionError(f"processes {stay} are there after {seconds} s")
        time.sleep(0.01)
    return [process.returncode for process in started]


def assert_same_run(workdir: Path, reference: Path) -> None:
    """Every logged number and every array of the last checkpoint, to the last bit."""
    assert numbers_by_step(workdir) == numbers_by_step(reference)
    assert last_digests(workdir) == last_digests(reference)


def run_again(lab: Lab, reference: Path, workdir: Path, flags: Sequence[str]) -> str:
    """Goes on to the end, undisturbed, to what the reference is; gives the output."""
    status, out, err = lab.program.run(*flags, f"--workdir={workdir}")
    assert status == 0, (out, err)
    assert_same_run(workdir, reference)
    return out


def pytest_trials(*tests: str) -> Callable[[Lab, int], Iterator[Trial]]:
    """Trials that are tests of the test suite already, each by its file or name."""

    def trials(lab: Lab, count: int) -> Iterator[Trial]:
        del count
        for test in tests:
            yield Trial(test, lambda directory, t=test: run_tests(lab, t, directory))

    return trials


def run_tests(lab: Lab, test: str, directory: Path) -> int:
    """Runs tests in a process of their own; gives how many passed."""
    results = directory / "results.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--junitxml={results}", *(f"tests/{test}").split()],
        cwd=ROOT,
        env=lab.program.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (suite,) = ElementTree.parse(results).getroot().iter("testsuite")
    count = {name: int(suite.get(name, "0")) for name in ("tests", "skipped")}
    return count["tests"] - count["skipped"]
