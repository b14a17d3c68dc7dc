"""Reads the official ``F*_haiku.npz``, which are pickles, without unpickling them.

The pickle comes as inert records (`pickle_records`); here they are read as arrays, each
from its shape, dtype and bytes, and checked against the bytes that the file really has.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nfnets.errors import UserError
from nfnets.weights.arrays import (
    BFLOAT16,
    Refused,
    check_count,
    check_name,
    plain_array,
)
from nfnets.weights.pickle_records import Name, Record, read_records

_DTYPES = frozenset("f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 b1".split())


def read_pickle(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The arrays of a pickle of ``{module: {parameter: array}}``; runs none of it.

    Reads protocols 0 to 5, as `pickle` and `dill` write them, with dictionaries of
    Haiku and arrays of NumPy or JAX.

    Args:
      data: the whole file.
      name: what errors call it.

    Returns:
      "module/parameter" to an array over the file's bytes, maybe read-only.

    Raises:
      UserError: there is anything else in it, or it is damaged.
    """
    try:
        return _arrays(read_records(data), len(data))
    except Refused as refusal:
        raise UserError(
            f"cannot read {name}: {refusal}; it should be a pickle of {{module: "
            f"{{parameter: array}}}} (nothing in it was run), download it again"
        ) from refusal


def _arrays(tree: Any, size: int) -> dict[str, np.ndarray]:
    """All arrays of a two-level tree; ``size`` bounds their bytes."""
    arrays: dict[str, np.ndarray] = {}
    made: dict[int, np.ndarray] = {}  # by the id of the record: two names may share it
    for module, parameters in _mapping(tree, "it").items():
        for parameter, value in _mapping(parameters, f"its {module[:80]!r}").items():
            name = check_name(f"{module}/{parameter}")
            if id(value) not in made:
                made[id(value)] = _array(value, name)
                size -= made[id(value)].nbytes
                if size < 0:
                    raise Refused("its arrays promise more bytes than it has")
            arrays[name] = made[id(value)]
            check_count(len(arrays))
    if not arrays:
        raise Refused("it holds no arrays")
    return arrays


def _mapping(value: Any, what: str) -> dict[str, Any]:
    """The items of a dictionary, or of a dictionary of Haiku."""
    if isinstance(value, Record) and value.name is Name.MAPPING:
        value = _storage(value)
    if type(value) is not dict:
        raise Refused(f"{what} is no dictionary")
    return value


def _storage(mapping: Record) -> Any:
    """The dictionary in a dictionary of Haiku: its argument, or in its state."""
    if len(mapping.args) == 1 and mapping.state is None:
        return mapping.args[0]
    state = mapping.state
    if type(state) is tuple and len(state) == 2:  # (attributes, slots)
        state = state[1] if state[0] is None else state[0]
    return state.get("_mapping") if type(state) is dict else None


def _array(value: Any, name: str) -> np.ndarray:
    """The array that a record stands for.

    Raises:
      Refused: it is none; says which parameter it is.
    """
    try:
        if isinstance(value, Record) and value.name in _READERS:
            return _READERS[value.name](value)
        raise Refused("no array")
    except Refused as refusal:
        raise Refused(f"its {name} is not read ({refusal})") from refusal


def _reconstructed(record: Record) -> np.ndarray:
    """``_reconstruct(ndarray, (0,), b"b")``, then the state."""
    return _of_state(record.args, record.state)


def _wrapped(record: Record) -> np.ndarray:
    """``wrapper(_reconstruct, its arguments, the state, more)``, of dill or JAX.

    More is what dill knows of attributes (None or nothing) or JAX of weak types.
    """
    function, args, state, _ = _fields(record.args, 4)
    if function is not Name.RECONSTRUCT or record.state is not None:
        raise Refused("a wrapped array that is not NumPy's")
    return _of_state(args, state)


def _of_state(args: Any, state: Any) -> np.ndarray:
    if _fields(args, 3)[0] is not Name.NDARRAY:
        raise Refused("not of the class numpy.ndarray")
    _, shape, dtype, is_fortran, data = _fields(state, 5)
    return plain_array(_bytes(data), _dtype(dtype), shape, "F" if is_fortran else "C")


def _from_buffer(record: Record) -> np.ndarray:
    """``_frombuffer(bytes, dtype, shape, order)``, NumPy >= 2.3 also with axes."""
    axes = record.args[4] if len(record.args) == 5 else None
    data, dtype, shape, order = _fields(record.args[:4], 4)
    if order not in ("C", "F", "K"):
        raise Refused("elements in an unknown order")
    array = plain_array(_bytes(data), _dtype(dtype), shape, order)
    if axes is None:
        return array
    if type(axes) is not tuple or set(map(type, axes)) != {int}:
        raise Refused("axes that are no numbers")
    if order != "K" or sorted(axes) != list(range(array.ndim)):
        raise Refused("axes that are no permutation")
    return array.transpose(axes)


def _scalar(record: Record) -> np.ndarray:
    """``scalar(dtype, bytes)``: an array without axes."""
    dtype, data = _fields(record.args, 2)
    return plain_array(_bytes(data), _dtype(dtype), ())


_READERS = {
    Name.RECONSTRUCT: _reconstructed,
    Name.FROM_BUFFER: _from_buffer,
    Name.SCALAR: _scalar,
    Name.ARRAY_OF_DILL: _wrapped,
    Name.ARRAY_OF_JAX: _wrapped,
}


def _fields(values: Any, count: int) -> tuple[Any, ...]:
    if type(values) is not tuple or len(values) != count:
        raise Refused(f"arguments that are not {count} values")
    return values


def _dtype(value: Any) -> np.dtype:
    """``dtype("f4", align, copy)`` with the state (3, "<", None, None, None, ...)."""
    if not isinstance(value, Record) or value.name is not Name.DTYPE or not value.args:
        raise Refused("without a dtype")
    code = value.args[0]
    if code is Name.BFLOAT16:
        dtype = BFLOAT16
    elif type(code) is str and code in _DTYPES:
        dtype = np.dtype(code)
    else:
        shown = f" {code[:20]!r}" if type(code) is str else ""
        raise Refused(f"a dtype{shown} that is no number")
    if value.state is None:
        return dtype
    _, order, *parts = _fields(value.state, 8)
    if parts[:3] != [None, None, None] or type(order) is not str:
        raise Refused("a dtype with parts")
    if order not in ("<", "|", "=") and (order != ">" or dtype == BFLOAT16):
        raise Refused("a dtype of unknown byte order")
    return dtype.newbyteorder(order)


def _bytes(value: Any) -> bytes | bytearray:
    """Bytes, or the latin-1 string that protocols 0 to 2 write for them."""
    if isinstance(value, Record) and value.name is Name.ENCODE:
        text, encoding = _fields(value.args, 2)
        if type(text) is not str or encoding != "latin1":
            raise Refused("a string in an unknown encoding")
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise Refused("a string that is no bytes") from error
    if type(value) not in (bytes, bytearray):
        raise Refused("without bytes")
    return value
