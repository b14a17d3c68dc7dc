"""Arrays out of files that nobody vouches for: checked before they are made."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

BFLOAT16 = np.dtype(jnp.bfloat16)

# A name is "module/parameter"; the longest official one has 62 characters.
MAX_NAME = 256
# A file that names more arrays is none of ours; NFNet-F7 has 1661.
_MAX_ARRAYS = 100_000
_MAX_AXES = 8


class Refused(Exception):
    """What a file holds is not plain arrays under plain names; says in which way."""


def plain_array(
    data: bytes | bytearray, dtype: np.dtype, shape: Any, order: str = "C"
) -> np.ndarray:
    """An array over ``data``, which is not copied.

    Args:
      data: the elements, nothing before or after them.
      dtype: numbers or booleans of at most 8 bytes, or bfloat16.
      shape: from the file, so of any type.
      order: "C", or "F" where the first index varies fastest.

    Raises:
      Refused: the shape is none, is empty, or is not that of the data.
    """
    if not is_plain(dtype):
        raise Refused(f"it has an array of dtype {str(dtype)[:50]}")
    if not (type(shape) is tuple and len(shape) <= _MAX_AXES):
        raise Refused("the shape of an array is no tuple of a few numbers")
    if not all(type(n) is int and 0 < n < 2**40 for n in shape):
        raise Refused("the shape of an array is not made of positive numbers")
    promised = math.prod(shape) * dtype.itemsize
    if promised != len(data):
        raise Refused(
            f"an array of shape {shape} needs {promised} bytes and has {len(data)}"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def is_plain(dtype: np.dtype) -> bool:
    """Whether elements are numbers or booleans: no objects, text, dates or records."""
    if dtype == BFLOAT16:
        return True
    return dtype.kind in "fiub" and dtype.itemsize <= 8 and dtype.fields is None


def check_name(name: Any) -> str:
    """The name itself, if it can be shown to a person and is not long.

    Raises:
      Refused: it is not a string, or cannot.
    """
    if type(name) is not str:
        raise Refused(f"a name is of type {type(name).__name__}, not a string")
    if not (0 < len(name) <= MAX_NAME and name.isascii() and name.isprintable()):
        raise Refused(f"a name is not plain text: {name[:40]!r}")
    return name


def check_count(count: int) -> None:
    """Raises Refused when there are more arrays than any network has."""
    if count > _MAX_ARRAYS:
        raise Refused(f"it has more than {_MAX_ARRAYS} arrays")
