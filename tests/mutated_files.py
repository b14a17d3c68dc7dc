"""Files of weights with random changes, and what reading them may come to."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import numpy as np

from nfnets.errors import UserError
from nfnets.weights.arrays import BFLOAT16


def mutate(data: bytes, generator: random.Random) -> bytes:
    """One to three bytes changed, lost, or moved."""
    mutated = bytearray(data)
    for _ in range(generator.randint(1, 3)):
        at = generator.randrange(len(mutated))
        kind = generator.randrange(4)
        if kind == 0:
            del mutated[at : at + generator.randint(1, 8)]
        elif kind == 1:
            start = generator.randrange(len(mutated))
            mutated[at:at] = mutated[start : start + generator.randint(1, 20)]
        else:
            mutated[at] = generator.randrange(256)
    return bytes(mutated)


def refusal_of(
    read: Callable[[], Mapping[str, np.ndarray]], max_bytes: int
) -> str | None:
    """Why a file is refused; None when it gives plain arrays within a size."""
    try:
        arrays = read()
    except UserError as error:
        return str(error)
    assert sum(array.nbytes for array in arrays.values()) <= max_bytes
    for key, value in arrays.items():
        assert type(key) is str
        assert type(value) is np.ndarray
        assert value.dtype == BFLOAT16 or value.dtype.kind in "fiub"
    return None
