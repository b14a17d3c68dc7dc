"""Runs the measurements: a pinned process per variant and round, one at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nfnets.benchmark.job import Job
from nfnets.benchmark.variants import Variant
from nfnets.errors import UserError

# Every library in one thread, unless its loader says otherwise, and no accelerator.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class MeasurementFailed(Exception):
    """The process ended without a result; the message is the last line it wrote."""


@dataclass(frozen=True)
class Measurement:
    """One variant in one round.

    Attributes:
        variant: its name.
        round: counted from 0.
        cpu_rate: images per second of CPU time of the process and those below it.
        wall_rate: images per second of the clock, on all cores given.
        utilisation: CPU time over the clock's and the number of cores.
        pss_mb: proportional memory of the process and those below it, in MiB.
    """

    variant: str
    round: int
    cpu_rate: float
    wall_rate: float
    utilisation: float
    pss_mb: float


def parse_cores(text: str) -> tuple[int, ...]:
    """``0,2-3`` -> (0, 2, 3); a UserError where these cannot be used here."""
    cores: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            cores |= set(range(int(first), int(last or first) + 1))
    except ValueError:
        raise UserError(f"cores are {text!r}; expected e.g. 0 or 0,1 or 0-3") from None
    usable = os.sched_getaffinity(0)
    if not cores or cores - usable:
        here = ",".join(str(core) for core in sorted(usable))
        raise UserError(f"cores are {text!r}; usable here are {here}")
    return tuple(sorted(cores))


def run_rounds(
    variants: Sequence[Variant],
    template: Mapping[str, Any],
    *,
    rounds: int,
    cores: Sequence[int],
    log: Callable[[str], None],
) -> tuple[list[Measurement], dict[str, str]]:
    """Measures all variants in each round, in reversed order in every second one.

    Args:
        variants: to be measured.
        template: fields of :class:`Job` but ``variant`` and ``threads``.
        rounds: how many.
        cores: that each process is pinned to.
        log: is told of each measurement.

    Returns:
        The measurements, and why variants failed, by name: these are not tried again.
    """
    measured: list[Measurement] = []
    failed: dict[str, str] = {}
    for number in range(rounds):
        for variant in variants[::-1] if number % 2 else variants:
            if variant.name in failed:
                continue
            job = Job(variant=variant.name, threads=len(cores), **template)
            try:
                times = run_process("nfnets.benchmark.worker", asdict(job), cores)
            except MeasurementFailed as error:
                failed[variant.name] = str(error)
                log(f"round {number + 1}: {variant.name} failed: {error}")
                continue
            result = _rates(job, number, times)
            measured.append(result)
            log(
                f"round {number + 1}: {variant.name}: {result.cpu_rate:.0f} images per "
                f"CPU second, utilisation {result.utilisation:.2f}"
            )
    return measured, failed


def _rates(job: Job, number: int, times: Mapping[str, float]) -> Measurement:
    images = job.batches * job.batch_size
    return Measurement(
        variant=job.variant,
        round=number,
        cpu_rate=images / times["cpu_s"],
        wall_rate=images / times["wall_s"],
        utilisation=times["cpu_s"] / times["wall_s"] / job.threads,
        pss_mb=times["pss_mb"],
    )


# Pins the process before anything is imported that starts threads.
_PINNED_START = """
import os, runpy, sys
os.sched_setaffinity(0, {cores})
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def run_process(
    module: str,
    job: Mapping[str, Any],
    cores: Sequence[int],
    timeout_s: float | None = 600,
    environment: Mapping[str, str] = ONE_THREAD,
) -> dict[str, Any]:
    """Runs ``python -m MODULE JOB RESULT`` on these cores and returns its result.

    Args:
        module: to run.
        job: what it is told, JSON values.
        cores: that it is pinned to.
        timeout_s: after which it is ended; None waits.
        environment: variables that it gets beside those of this process.

    Raises:
        MeasurementFailed: no result, or not in time.
    """
    start = _PINNED_START.format(cores=tuple(cores))
    with tempfile.TemporaryDirectory(prefix="nfnets-job-") as directory:
        job_file, result = Path(directory) / "job.json", Path(directory) / "result.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        errors = Path(directory) / "stderr"
        with open(errors, "wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-c", start, module, str(job_file), str(result)],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, **environment},
                start_new_session=True,
            )
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise MeasurementFailed(f"no result in {timeout_s:.0f} s") from None
            finally:
                _kill_group(process)
        if result.exists():
            return json.loads(result.read_text(encoding="utf-8"))
        lines = errors.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        reason = said[-1] if said else "it said nothing"
        raise MeasurementFailed(f"exit status {process.returncode}: {reason}")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and workers that it left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
