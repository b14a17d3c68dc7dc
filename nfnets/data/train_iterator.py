"""The stream of training batches, which counts the damaged images among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from nfnets.data.backends import Made
from nfnets.data.decode import DamagedImage
from nfnets.data.prefetch import Prefetcher
from nfnets.errors import UserError

Batch = dict[str, np.ndarray]

# Damaged images that never stop a run, however few images it has seen.
MIN_DAMAGED = 10


class TrainIterator(Iterator[Batch]):
    """Training batches in step order; see :func:`make_train_iter`.

    Attributes:
        damaged: damaged images met by this process since the start of the run, in the
            batches handed out so far.
    """

    def __init__(
        self,
        batches: Prefetcher[Made],
        max_damaged: float,
        log: Callable[[str], None],
        *,
        damaged: int,
        seen: int,
    ):
        self.damaged = damaged
        self._seen = seen
        self._named: set[str] = set()
        self._batches = batches
        self._max_damaged = max_damaged
        self._log = log

    def __iter__(self) -> TrainIterator:
        return self

    def __next__(self) -> Batch:
        batch, records, damaged = next(self._batches)
        self._seen += records
        for error in damaged:
            self._count(error)
        return batch

    def _count(self, error: DamagedImage) -> None:
        self.damaged += 1
        if error.record not in self._named:
            self._named.add(error.record)
            self._log(f"damaged image, another takes its place: {error}")
        limit = max(MIN_DAMAGED, self._max_damaged * self._seen)
        if self.damaged > limit:
            self.close()
            raise UserError(
                f"{self.damaged} damaged images among {self._seen} seen, more than "
                f"{limit:g} (data.max_damaged={self._max_damaged:g}); the last is "
                f"{error}; mend the files or raise data.max_damaged"
            )

    def close(self) -> None:
        """Stops and joins the loader's threads; harmless when called again."""
        self._batches.close()

    def __enter__(self) -> TrainIterator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
