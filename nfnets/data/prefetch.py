"""Makes batches ahead of the consumer: one producer thread and a small pool."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from nfnets.errors import UserError

T = TypeVar("T")
# Finished batches that wait for the consumer.
READY = 2
# Seconds after which a thread that waits looks whether it should stop.
_POLL_S = 0.05


class Stopped(Exception):
    """Raised inside a worker when nobody wants its result any more."""


class SlotPool:
    """Runs one function over the slots of a batch, on ``threads`` threads.

    With one thread the work is done in the caller's, which spares the hand-over.
    """

    def __init__(self, threads: int):
        if threads < 1:
            raise UserError(f"threads is {threads}; expected 1 or more loader threads")
        self.stop = threading.Event()
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "nfnets-data") if threads > 1 else None

    def run(self, task: Callable[[int], T], slots: int) -> list[T]:
        """``[task(0), ..., task(slots - 1)]``; raises the first error in slot order."""
        if self._pool is None:
            return self._chunk(task, range(slots))
        size = max(1, slots // (4 * self.threads))
        chunks = [range(i, min(i + size, slots)) for i in range(0, slots, size)]
        futures = [self._pool.submit(self._chunk, task, chunk) for chunk in chunks]
        return [result for future in futures for result in future.result()]

    def _chunk(self, task: Callable[[int], T], slots: range) -> list[T]:
        results = []
        for slot in slots:
            if self.stop.is_set():
                raise Stopped
            results.append(task(slot))
        return results

    def close(self) -> None:
        """Tells the workers to stop and waits for the slots they are at."""
        self.stop.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


class Prefetcher(Iterator[T], Generic[T]):
    """Iterates over ``make(key) for key in keys``, made ahead in a thread.

    An exception in ``make`` reaches the consumer in the place of its batch, and ends
    the iteration. Use :meth:`close` (or ``with``) when leaving early; the threads end
    by themselves at the last batch, after an error, or when the object is dropped.
    ``upstream`` is what ``make`` reads from, on a pool of its own, and closed with it;
    ``ready`` is how many finished batches wait at most.
    """

    def __init__(
        self,
        make: Callable[[int], T],
        keys: Iterable[int],
        pool: SlotPool,
        *,
        upstream: Prefetcher[Any] | None = None,
        ready: int = READY,
    ):
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(ready)
        self._pool = pool
        self._thread = threading.Thread(
            target=_produce,
            args=(make, keys, pool, self._queue),
            name="nfnets-data-producer",
            daemon=True,
        )
        # The threads hold no reference to self, so this also runs when it is dropped.
        self._finalizer = weakref.finalize(
            self, _shut_down, pool, self._thread, upstream
        )
        self._thread.start()

    def __iter__(self) -> Prefetcher[T]:
        return self

    def __next__(self) -> T:
        kind, value = self._get()
        if kind == "batch":
            return value
        self.close()
        if kind == "error":
            raise value
        raise StopIteration

    def _get(self) -> tuple[str, Any]:
        """Waits for the next item, but not for a loader that was closed."""
        while not self._pool.stop.is_set():
            try:
                return self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
        return "end", None

    def close(self) -> None:
        """Stops and joins every thread; harmless when called again."""
        self._finalizer()

    def __enter__(self) -> Prefetcher[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shut_down(
    pool: SlotPool, thread: threading.Thread, upstream: Prefetcher[Any] | None
) -> None:
    pool.close()
    if upstream is not None:  # what ``make`` waits for
        upstream.close()
    if thread is not threading.current_thread():
        thread.join()


def _produce(
    make: Callable[[int], T],
    keys: Iterable[int],
    pool: SlotPool,
    ready: queue.Queue[tuple[str, Any]],
) -> None:
    """Body of the producer thread: ends when told to, at the end, or at an error."""
    try:
        for key in keys:
            if not _put(("batch", make(key)), pool, ready):
                return
        _put(("end", None), pool, ready)
    except Stopped:
        return
    except BaseException as error:  # handed to the consumer, whatever it is
        if not pool.stop.is_set():
            _put(("error", error), pool, ready)


def _put(item: tuple[str, Any], pool: SlotPool, ready: queue.Queue[Any]) -> bool:
    """Waits for a free place; ``False`` when the consumer is gone."""
    while not pool.stop.is_set():
        try:
            ready.put(item, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
