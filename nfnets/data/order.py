"""Random streams and the order of the records, as functions of seed and step.

Every draw is ``Generator.random`` of a Philox counter generator: 53 bits of its raw
stream, which NumPy promises not to change between versions, unlike the methods that
are built on it (shuffling, bounded integers).
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np

# What a stream is for: the second word of its counter.
ORDER, AUGMENT, SUBSTITUTE, MIX = 0, 1, 2, 3


class _SlotRng(threading.local):
    """One generator per thread, moved to any place of the random streams."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.state: Any = self.bits.state
        self.generator = np.random.Generator(self.bits)


_RNG = _SlotRng()


def slot_rng(
    seed: int, major: int, *, purpose: int, slot: int = 0
) -> np.random.Generator:
    """The thread's generator, at the start of the stream of these four numbers.

    Moving one generator costs a fifth of making one. It is valid until the next call
    in the same thread. ``major`` is the step, or the epoch for ``ORDER``.
    """
    mask = 2**64 - 1
    _RNG.state["state"] = {
        # The first counter word counts the draws.
        "counter": np.array([0, purpose, slot, 0], np.uint64),
        "key": np.array([seed & mask, major & mask], np.uint64),
    }
    _RNG.state.update(buffer_pos=4, has_uint32=0, uinteger=0)
    _RNG.bits.state = _RNG.state
    return _RNG.generator


@functools.lru_cache(maxsize=3)
def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """A permutation of ``range(count)``, int64: the order of one epoch."""
    rng = slot_rng(seed, epoch, purpose=ORDER)
    order = np.argsort(rng.random(count), kind="stable")
    order.flags.writeable = False
    return order


def records_at(
    seed: int,
    start: int,
    size: int,
    count: int,
    *,
    repeats: int = 1,
    num_devices: int = 1,
    drop_last: bool = False,
) -> np.ndarray:
    """The records that one step reads.

    Differs: the official code shuffles a buffer of 10 batches within each host's part
    of the records; here the whole epoch is shuffled, whatever the hosts.

    Epochs follow each other without a gap: every record occurs once in each run of
    ``count`` positions, a step may span several epochs, and no tail is dropped. With
    ``drop_last`` an epoch is as many whole steps as fit into it, and at least one.

    With repeated augmentation (arXiv 1901.09335) the order is that of DeiT's sampler:
    an epoch, still of ``count`` positions, has each of the first ``count / repeats``
    records of its order ``repeats`` times in a row, and position p of the step goes to
    device p modulo D, so copies train on different devices.

    Differs: DeiT's sampler ends an epoch at the last multiple of 256 records, before a
    batch that is not whole is dropped; here only the latter, if at all.

    Args:
        seed: of the order.
        start: first position of the step, counted over all epochs.
        size: records of the step, a multiple of D.
        count: records of the source.
        repeats: copies of each record.
        num_devices: D, of all processes.
        drop_last: whether the last records of an epoch's order, which do not fill a
            step, are left out.

    Returns:
        int64 ``[size]``, device by device.
    """
    positions = np.arange(start, start + size)
    length = count // size * size if drop_last and size <= count else count
    epochs, places = positions // length, positions % length // repeats
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = epoch_order(seed, int(epoch), count)[places[here]]
    if repeats == 1:
        return indices
    return indices.reshape(-1, num_devices).T.ravel()  # [size / D, D] -> D parts


def shard_range(start: int, end: int, index: int, count: int) -> tuple[int, int]:
    """The part of ``range(start, end)`` that process ``index`` of ``count`` reads.

    Contiguous, in order, and the first ones are longer by 1 where the length does not
    divide, as in the official code; a part may be empty.

    Returns:
        Its own start and end.
    """
    size, longer = divmod(end - start, count)
    first = start + index * size + min(index, longer)
    return first, first + size + (index < longer)
