"""CPU time and memory of this process and those below it, from Linux's /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat after the name that are user and system time of the process
# and of its children that have ended.
_TIMES = slice(11, 15)


def cpu_seconds() -> float:
    """CPU time used so far by the process, its threads and all processes below it."""
    ended = os.times()
    total = time.process_time() + ended.children_user + ended.children_system
    for pid in descendants(os.getpid()):
        total += sum(int(field) for field in _stat(pid)[_TIMES]) / _TICKS_PER_S
    return total


def descendants(pid: int) -> list[int]:
    """Processes that are below this one now."""
    found, waiting = [], [pid]
    while waiting:
        for file in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            children = [int(child) for child in " ".join(_lines(str(file))).split()]
            found += children
            waiting += children
    return found


def tree_memory_mb() -> dict[str, float]:
    """``Rss``, ``Pss`` and ``Pss_Anon`` of the tree in MiB.

    Pss counts a page that n processes share as 1/n of a page for each, and mapped
    files too; Pss_Anon leaves files out.
    """
    total = {"Rss": 0.0, "Pss": 0.0, "Pss_Anon": 0.0}
    for pid in (os.getpid(), *descendants(os.getpid())):
        for line in _lines(f"/proc/{pid}/smaps_rollup"):
            name, _, value = line.partition(":")
            if name in total:
                total[name] += int(value.split()[0]) / 1024
    return total


def reset_peak_rss() -> None:
    """Lets :func:`peak_rss_mb` count from now on (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_rss_mb() -> float:
    """The largest resident memory of this process alone, in MiB."""
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _stat(pid: int) -> list[str]:
    """Fields after the name, which may hold blanks; empty when the process is gone."""
    text = "".join(_lines(f"/proc/{pid}/stat"))
    return text.rpartition(")")[2].split()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # a process that ended meanwhile
        return []
