"""The real program, ``experiments/run.py``, in processes of its own, for several tests.

Its standard output and error go to pipes, or together to one file that can be read
while it runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xla_flags
from helpers import ROOT, TIMED

# Two blocks, 89 steps of 48 digits, two dozen checkpoints and rows.
TINY_FLAGS = (
    "--config=digits",
    "--config.model_overrides.depths=(1,1)",
    "--config.model_overrides.widths=(16,32)",
    "--config.model_overrides.strides=(1,2)",
    "--config.model_overrides.stem_channels=(8,8,8)",
    "--config.model_overrides.group_size=8",
    "--config.batch_size=48",
    "--config.num_epochs=3",
    "--config.eval.every_epochs=1",
    "--config.checkpoint_every_steps=8",
    "--config.log_every_steps=3",
)
# One block without random draws, so that the number of devices does not matter;
# 29 steps.
SMALL_FLAGS = (
    "--config=digits",
    "--config.model_overrides.depths=(1,)",
    "--config.model_overrides.widths=(16,)",
    "--config.model_overrides.strides=(1,)",
    "--config.model_overrides.stem_channels=(8,8,8)",
    "--config.model_overrides.group_size=8",
    "--config.drop_rate=0.0",
    "--config.batch_size=48",
    "--config.num_epochs=1.0",
    "--config.eval.every_epochs=0.5",
    "--config.checkpoint_every_steps=5",
    "--config.log_every_steps=1",
)
# Nothing of a tiny network takes longer, however busy the machine is.
PATIENCE_S = 300

Process = subprocess.Popen[str]


@dataclasses.dataclass(frozen=True)
class Program:
    """Starts the program, always in one directory and with one environment.

    Attributes:
        home: the working directory.
        environment: of the program; compiled steps are shared by its cache.
    """

    home: Path
    environment: dict[str, str]

    def start(
        self,
        *flags: str,
        devices: int = 1,
        prefix: Sequence[str] = (),
        output: Path | None = None,
        cwd: Path | None = None,
        **variables: str,
    ) -> Process:
        """Starts it; with ``prefix``, as the arguments of another command."""
        flags_of_xla = {"XLA_FLAGS": xla_flags.devices(devices)}
        environment = self.environment | flags_of_xla | variables
        command = [*prefix, sys.executable, str(ROOT / "experiments" / "run.py")]
        to: Any = subprocess.PIPE if output is None else output.open("w")
        process = subprocess.Popen(
            [*command, *flags],
            env=environment,
            cwd=cwd or self.home,
            stdout=to,
            stderr=subprocess.PIPE if output is None else to,
            text=True,
        )
        if output is not None:
            to.close()
        return process

    def run(self, *flags: str, **options: Any) -> tuple[int, str, str]:
        """Runs it to its end; gives status, standard output and error."""
        process = self.start(*flags, **options)
        out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def start_several(
        self,
        count: int,
        *flags: str,
        of_each: Sequence[Sequence[str]] = (),
        cwds: Sequence[Path] = (),
        outputs: Sequence[Path] = (),
        devices: int = 2,
    ) -> list[Process]:
        """Starts processes that train together; ``of_each`` are further flags."""
        address = f"127.0.0.1:{free_port()}"
        started = []
        for index in range(count):
            joining = (
                f"--coordinator={address}",
                f"--num_processes={count}",
                f"--process_id={index}",
            )
            own = of_each[index] if of_each else ()
            process = self.start(
                *flags,
                *(joining if count > 1 else ()),
                *own,
                devices=devices,
                output=outputs[index] if outputs else None,
                cwd=cwds[index] if cwds else None,
            )
            started.append(process)
        return started


def program_in(home: Path) -> Program:
    """The program with a working directory and a cache of its own."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUMPY_RANK_PROMOTION": "allow",
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
    }
    return Program(home, environment)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def ends(started: Sequence[Process]) -> list[tuple[int, str, str]]:
    """Status, standard output and error of every process, when all have ended."""
    texts = [process.communicate(timeout=PATIENCE_S) for process in started]
    return [
        (process.returncode, out, err)
        for process, (out, err) in zip(started, texts, strict=True)
    ]


def wait_until(
    happened: Callable[[], Any], started: Sequence[Process], seconds: float = PATIENCE_S
) -> None:
    """Waits while all processes go on; an AssertionError when one ends before."""
    deadline = time.monotonic() + seconds
    while not happened():
        for process in started:
            assert process.poll() is None, (process.returncode, process.communicate())
        assert time.monotonic() < deadline, f"did not happen in {seconds} s"
        time.sleep(0.005)


def rows_of(workdir: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``; a last one that is being written is left out."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def numbers_by_step(workdir: Path) -> dict[tuple[int, str], Any]:
    """All values but the speed, by step; a step done twice must agree with itself."""
    found: dict[tuple[int, str], Any] = {}
    for row in rows_of(workdir):
        for key, value in row.items():
            if "event" in row or key in TIMED:
                continue
            assert found.setdefault((row["step"], key), value) == value, (row, key)
    return found


def assert_close_numbers(left: Path, right: Path) -> None:
    """Two runs on other numbers of devices are the same up to the rounding of sums.

    Of a step that was done twice the last row counts.
    """
    ours, theirs = (
        {
            (row["step"], key): value
            for row in rows_of(workdir)
            if "event" not in row
            for key, value in row.items()
            if key not in TIMED
        }
        for workdir in (left, right)
    )
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        # Clipped fractions and accuracies are counts: one unit may fall either way.
        count = "clipped" in key[1] or "/top" in key[1]
        tolerance = {"atol": 0.05} if count else {"rtol": 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(value, theirs[key], err_msg=str(key), **tolerance)


def saved_steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints that are complete, in order."""
    folder = workdir / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def last_digests(workdir: Path) -> dict[str, str]:
    """Sha256 of every array of the last checkpoint, as saved with it."""
    step = saved_steps(workdir)[-1]
    (record,) = (workdir / "checkpoints" / str(step) / "record").glob("metadata*")
    return json.loads(record.read_text())["sha256"]


def resumed_from(output: str) -> int | None:
    """The step that a run said it went on from; None when it did not say so."""
    found = re.search(r"^resume   from step (\d+)", output, re.MULTILINE)
    return int(found[1]) if found else None
