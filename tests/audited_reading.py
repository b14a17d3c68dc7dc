"""Reads the hostile pickles in a process that listens to itself.

Usage: python audited_reading.py MARKER RESULTS, of which MARKER is a file that hostile
pickles try to make, and RESULTS receives what happened. Every event that Python's audit
hooks report is noted, and memory is bounded.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from hostile_pickles import VALID, hostile_pickles

from nfnets.errors import UserError
from nfnets.weights.pickles import read_pickle


def main(marker: str, results: str) -> None:
    """Reads them all and writes, as JSON, what happened to each."""
    cases = hostile_pickles(marker)
    assert read_pickle(VALID, "valid")["net/w"] == 1.0
    str(b"a", "raw-unicode-escape")  # a codec that Python imports when first used
    limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit + 2**30, limit + 2**30))
    events: list[str] = []
    listening = False
    sys.addaudithook(lambda event, _: events.append(event) if listening else None)
    happened = {}
    for key, data in cases.items():
        events.clear()
        started = time.monotonic()
        listening = True
        try:
            arrays = read_pickle(data, "FILE")
            outcome = f"read: {list(arrays)[:3]}"
        except UserError as error:
            outcome = f"refused: {error}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        listening = False
        seconds = time.monotonic() - started
        happened[key] = {"outcome": outcome, "seconds": seconds, "events": events[:20]}
    with open(results, "w", encoding="utf-8") as file:
        json.dump(happened, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
