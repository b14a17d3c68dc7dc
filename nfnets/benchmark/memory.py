"""Memory of our loader over many batches: ``python -m nfnets.benchmark.memory``.

Its arguments are a file with the settings and the file that the result goes to.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nfnets.benchmark.job import Job
from nfnets.benchmark.process_tree import peak_rss_mb, reset_peak_rss, tree_memory_mb
from nfnets.benchmark.variants import VARIANTS

# Shares of the batches after which the peaks so far are noted.
SHARES = (0.01, 0.1, 0.5, 1.0)
_MIB = 2**20


def checkpoints(batches: int) -> list[int]:
    """Numbers of batches after which the table has a row; 1 at least."""
    return sorted({max(1, round(share * batches)) for share in SHARES})


def batches_in_flight_mb(job: Job) -> float:
    """Of the batches that exist at one time, in MiB.

    The finished ones that wait, one that is being made and one at the consumer.
    """
    from nfnets.data.prefetch import READY

    return (READY + 2) * job.batch_size * job.size**2 * 3 / _MIB


def measure(job: Job, backend: str) -> dict[str, Any]:
    """Peaks of memory above the process without a loader, and without the batches."""
    from nfnets.benchmark import ours

    variant = VARIANTS[job.variant]
    source = ours.open_images(job.directory)
    baseline = tree_memory_mb()
    reset_peak_rss()
    flight = batches_in_flight_mb(job)
    with ours.make_iterator(source, job, variant, backend) as batches:
        rows = list(_peaks(batches, job.batches, baseline, flight))
    return {"baseline_mb": baseline, "in_flight_mb": flight, "rows": rows}


def _peaks(
    batches: Iterator[Any], count: int, baseline: Mapping[str, float], flight: float
) -> Iterator[dict[str, float]]:
    """A row per checkpoint: of proportional memory what was seen after some batch."""
    wanted = checkpoints(count)
    peaks = dict.fromkeys(baseline, 0.0)
    for done in range(1, count + 1):
        batch = next(batches)
        for name, value in tree_memory_mb().items():
            peaks[name] = max(peaks[name], value)
        del batch
        if done in wanted:
            peaks["Rss"] = peak_rss_mb()
            row = {name: peaks[name] - baseline[name] - flight for name in peaks}
            yield {"batches": done, **row}


def format_memory(result: Mapping[str, Any], batch_size: int) -> str:
    """A Markdown table, and what the numbers leave out."""
    titles = ("batches", "images", "peak PSS", "of it no files", "peak RSS")
    lines: list[Sequence[str]] = [titles, ["---"] * len(titles)]
    for row in result["rows"]:
        counts = [f"{row['batches']}", f"{row['batches'] * batch_size}"]
        lines.append([*counts, *(f"{row[n]:.1f}" for n in ("Pss", "Pss_Anon", "Rss"))])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    baseline, flight = result["baseline_mb"]["Pss"], result["in_flight_mb"]
    note = (
        f"MiB above the process without a loader (PSS {baseline:.0f}) and the batches "
        f"in flight ({flight:.0f})."
    )
    return f"{table}\n\n{note}"


def main(argv: list[str]) -> None:
    """Measures and writes the result."""
    settings = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    backend = settings.pop("backend")
    result = measure(Job(**settings), backend)
    Path(argv[2]).write_text(json.dumps(result), encoding="utf-8")
    sys.stderr.flush()
    os._exit(0)  # as the other measurements; the loader was closed


if __name__ == "__main__":
    main(sys.argv)
