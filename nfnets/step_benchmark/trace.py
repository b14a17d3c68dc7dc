"""Traces of what a device does, and how much of the time it does it."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax

# Lines of a trace that hold what runs on a device: a GPU's streams, a TPU's operations.
_DEVICE_LINES = ("Stream", "XLA Ops")
_LARGEST_KINDS = 12
_NAME = 70  # characters of one that are shown


@dataclasses.dataclass(frozen=True)
class DeviceTime:
    """Where the time of a device went, in a trace.

    Attributes:
      seconds: from the start of its first kernel to the end of its last.
      busy: share of them in which a kernel or a copy ran.
      kinds: the names that took longest, without their numbers, with their shares.
    """

    seconds: float
    busy: float
    kinds: tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Interval:
    """One kernel or copy: its name, and when it ran, in nanoseconds."""

    name: str
    start: float
    end: float


def record(directory: str) -> contextlib.AbstractContextManager[None]:
    """Writes a trace, for TensorBoard, XProf or Perfetto, without Python's calls."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    return jax.profiler.trace(directory, profiler_options=options)


def write_program(directory: str, step: Any) -> None:
    """Writes what XLA made of a step beside its trace, which names parts of it."""
    path = Path(directory) / "compiled.txt"
    path.write_text(step.as_text(), encoding="utf-8")


def read_device_time(directory: str) -> DeviceTime | None:
    """Of the first device in the last trace below a folder; None where it has none.

    A CPU's trace has none: there the program's own threads compute.
    """
    traces = Path(directory).rglob("*.xplane.pb")  # earlier ones may lie beside it
    path = max(traces, key=lambda path: path.stat().st_mtime_ns)
    planes = jax.profiler.ProfileData.from_file(str(path)).planes
    for plane in sorted(planes, key=lambda plane: plane.name):
        if plane.name.startswith("/device:"):
            return summarize(_intervals(plane.lines))
    return None


def summarize(intervals: Sequence[Interval]) -> DeviceTime | None:
    """Span, busy share, and shares by name; None of nothing."""
    if not intervals:
        return None
    start = min(interval.start for interval in intervals)
    span = max(interval.end for interval in intervals) - start
    kinds: dict[str, float] = collections.defaultdict(float)
    for interval in intervals:
        kind = re.sub(r"[._]?\d+$", "", interval.name)
        kinds[kind] += interval.end - interval.start
    largest = sorted(kinds.items(), key=lambda item: -item[1])[:_LARGEST_KINDS]
    shares = tuple((k, v / span) for k, v in largest)
    return DeviceTime(span / 1e9, _covered(intervals) / span, shares)


def describe_device_time(directory: str) -> list[str]:
    """How busy the device was, and with what; nothing where a trace has no device."""
    time = read_device_time(directory)
    if time is None:
        return []
    first = f"device   busy {time.busy:.1%} of {1000 * time.seconds:.1f} ms traced"
    return [first, *(f"{share:8.1%} {kind[:_NAME]}" for kind, share in time.kinds)]


def _intervals(lines: Iterable[Any]) -> list[Interval]:
    return [
        Interval(event.name, event.start_ns, event.start_ns + event.duration_ns)
        for line in lines
        if line.name.startswith(_DEVICE_LINES)
        for event in line.events
    ]


def _covered(intervals: Sequence[Interval]) -> float:
    """Nanoseconds in which at least one of them ran."""
    covered = reached = 0.0
    for interval in sorted(intervals, key=lambda each: each.start):
        covered += max(0.0, interval.end - max(reached, interval.start))
        reached = max(reached, interval.end)
    return covered
