"""One measurement in a process of its own: ``python -m nfnets.benchmark.worker``.

Its arguments are a file with the job and the file that the result goes to.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from nfnets.benchmark.job import Job, Loader
from nfnets.benchmark.process_tree import cpu_seconds, tree_memory_mb
from nfnets.benchmark.variants import OURS, VARIANTS

WARMUP_BATCHES = 2


def find_loader(name: str) -> Loader:
    """The function of a loader; ours are not imported into a process of the others."""
    if name in OURS:
        from nfnets.benchmark import ours

        return ours.native_kernel if name == "native_kernel" else ours.train_batches
    from nfnets.benchmark import peers

    loaders: dict[str, Loader] = {
        "decode": peers.decode,
        "tfdata": peers.tfdata,
        "torch_timm": peers.torch_timm,
        "dali": peers.dali,
    }
    return loaders[name]


def measure(job: Job) -> dict[str, float]:
    """CPU and wall seconds of the batches after the first two, and memory then."""
    variant = VARIANTS[job.variant]
    batches = find_loader(variant.loader)(job, variant)
    for _ in range(WARMUP_BATCHES):
        check_batch(next(batches), job)
    cpu, wall = cpu_seconds(), time.perf_counter()
    for _ in range(job.batches):
        next(batches)
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    memory = tree_memory_mb()["Pss"]
    return {"cpu_s": cpu, "wall_s": wall, "pss_mb": memory}


def check_batch(batch: Any, job: Job) -> None:
    """Refuses to time a loader that does not make what the others make."""
    if isinstance(batch, int):
        wanted, found = job.batch_size, batch
    else:
        array = np.asarray(batch)
        if array.dtype != np.uint8:
            raise ValueError(f"{job.variant} makes {array.dtype}, expected uint8")
        wanted, found = job.batch_size * job.size**2 * 3, array.size
    if wanted != found:
        raise ValueError(f"{job.variant} makes batches of {found}, expected {wanted}")


def main(argv: list[str]) -> None:
    """Measures and leaves at once: some loaders take long to end, or never do."""
    job = Job(**json.loads(Path(argv[1]).read_text(encoding="utf-8")))
    Path(argv[2]).write_text(json.dumps(measure(job)), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv)
