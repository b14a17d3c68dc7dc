"""Ends a program that no longer makes progress: a hung loader, a lost device.

Nothing else notices these: the process is alive, it only waits. The thread runs beside
the training and looks at the clock.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

EXIT_WATCHDOG = 76
# Beyond the limit, for what only a thread without Python can end.
GRACE_S = 5.0
STDERR = 2  # whatever sys.stderr is by then


class Watchdog:
    """Dumps all stacks and exits with status 76 when ``touch`` was not called in time.

    Where compiled code holds the interpreter, so that no thread of Python runs (a
    collective whose other process is gone), the status is 1, ``GRACE_S`` later.

    Args:
      limit_minutes: longest time between two touches; None watches nothing.
    """

    def __init__(self, limit_minutes: float | None) -> None:
        self._limit_s = None if limit_minutes is None else 60 * limit_minutes
        self._touched = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, name="nfnets-watchdog", daemon=True
        )

    def touch(self) -> None:
        """Says that something was finished."""
        self._touched = time.monotonic()

    def __enter__(self) -> Watchdog:
        self.touch()
        if self._limit_s is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        assert self._limit_s is not None
        while not self._stop.wait(min(1.0, self._limit_s / 4)):
            idle_s = time.monotonic() - self._touched
            if idle_s > self._limit_s:
                print(
                    f"error: nothing was finished for {idle_s:.0f} s "
                    f"(config.watchdog_minutes); where every thread waits:",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(all_threads=True)
                os._exit(EXIT_WATCHDOG)
            faulthandler.dump_traceback_later(
                self._limit_s - idle_s + GRACE_S, exit=True, file=STDERR
            )
        faulthandler.cancel_dump_traceback_later()
