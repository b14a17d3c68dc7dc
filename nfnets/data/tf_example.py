"""One image and its label out of a serialized ``tf.train.Example``, without TensorFlow.

The messages (tensorflow/core/example/example.proto and feature.proto), all read here::

    Example   { Features features = 1; }
    Features  { map<string, Feature> feature = 1; }   // entry: key = 1, value = 2
    Feature   { BytesList = 1 | FloatList = 2 | Int64List = 3 }
    BytesList { repeated bytes value = 1; }
    Int64List { repeated int64 value = 1 [packed]; }

Positions, not copies, are handed on, so that an image can be passed over.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

Buffer = bytes | mmap.mmap
Span = tuple[int, int]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types
_KINDS = {1: "bytes", 2: "float", 3: "int64"}


class MalformedRecord(ValueError):
    """The bytes are not what they should be; the message says where and why."""


def feature_spans(data: Buffer, start: int, end: int) -> dict[str, Span]:
    """Where each feature's ``Feature`` message lies.

    Args:
        data: holds the Example from ``start`` to ``end - 1``.
        start: first byte of the Example.
        end: the byte after its last.

    Returns:
        ``(start, end)`` by feature name; of a name that comes twice the last counts,
        as the format prescribes.

    Raises:
        MalformedRecord: cut off, or not an Example. Unknown fields are passed over.
    """
    usual = _usual_spans(data, start, end)
    if usual is not None:
        return usual
    spans: dict[str, Span] = {}
    for features in _messages(data, (start, end), 1, "features"):
        for entry in _messages(data, features, 1, "feature"):
            key, value = b"", (entry[1], entry[1])
            for number, wire, first, last in _fields(data, *entry):
                if number in (1, 2) and wire != _LENGTH:
                    raise MalformedRecord(f"map entry has wire type {wire} at {first}")
                if number == 1:
                    key = data[first:last]
                elif number == 2:
                    value = (first, last)
            spans[_text(key, entry[0])] = value
    return spans


def _usual_spans(data: Buffer, start: int, end: int) -> dict[str, Span] | None:
    """The same for what all writers make, in a third of the time; else ``None``.

    One ``Features``, and in each entry a key and then a value.
    """
    spans: dict[str, Span] = {}
    features = _sole(data, (start, end), 1)
    position = end if features is None else features[0]
    while position < end:
        if data[position] != 1 << 3 | _LENGTH:
            return None
        length, first = _varint(data, position + 1, end)
        position = first + length
        if length == 0 or position > end or data[first] != 1 << 3 | _LENGTH:
            return None
        length, key = _varint(data, first + 1, position)
        value = _sole(data, (key + length, position), 2)
        if value is None:
            return None
        spans[_text(data[key : key + length], first)] = value
    return spans or None


def _sole(data: Buffer, span: Span, number: int) -> Span | None:
    """The content of the message's only field, if it has this number; else ``None``."""
    start, end = span
    if start >= end or data[start] != number << 3 | _LENGTH:
        return None
    length, first = _varint(data, start + 1, end)
    return (first, end) if first + length == end else None


def bytes_value(data: Buffer, spans: dict[str, Span], name: str) -> bytes:
    """The one byte string of a feature; MalformedRecord where it is anything else."""
    first, last = bytes_span(data, spans, name)
    return data[first:last]


def bytes_span(data: Buffer, spans: dict[str, Span], name: str) -> Span:
    """Where the one byte string of a feature lies; MalformedRecord likewise."""
    usual = _sole(data, spans[name], 1) if name in spans else None
    usual = _sole(data, usual, 1) if usual else None
    if usual is not None:
        return usual
    values = _list_span(data, spans, name, 1)
    found = [] if values is None else list(_messages(data, values, 1, name))
    if len(found) != 1:
        raise MalformedRecord(f"feature {name!r} has {len(found)} values, expected 1")
    return found[0]


def int_value(data: Buffer, spans: dict[str, Span], name: str) -> int:
    """The one integer of a feature; MalformedRecord where it is anything else."""
    usual = _sole(data, spans[name], 3) if name in spans else None
    usual = _sole(data, usual, 1) if usual else None
    if usual is not None:
        value, last = _varint(data, *usual)
        if last == usual[1] and value < 2**63:
            return value
    values = int_values(data, spans, name)
    if len(values) != 1:
        raise MalformedRecord(f"feature {name!r} has {len(values)} values, expected 1")
    return values[0]


def int_values(data: Buffer, spans: dict[str, Span], name: str) -> list[int]:
    """All integers of a feature, perhaps none; MalformedRecord where it has others."""
    span = _list_span(data, spans, name, 3)
    values: list[int] = []
    for number, wire, first, last in () if span is None else _fields(data, *span):
        if number != 1:
            continue
        if wire not in (_VARINT, _LENGTH):
            raise MalformedRecord(f"integer has wire type {wire} at {first}")
        while first < last:  # one number, or several that are packed
            value, first = _varint(data, first, last)
            values.append(value - 2**64 if value >= 2**63 else value)
    return values


def _list_span(
    data: Buffer, spans: dict[str, Span], name: str, kind: int
) -> Span | None:
    """The list of a feature, which must be of the kind; ``None`` where it has none."""
    if name not in spans:
        known = ", ".join(sorted(spans)) or "none"
        raise MalformedRecord(f"there is no feature {name!r} (there are: {known})")
    found: Span | None = None
    for number, wire, first, last in _fields(data, *spans[name]):
        if number not in _KINDS:
            continue
        if number != kind or wire != _LENGTH:
            raise MalformedRecord(
                f"feature {name!r} is a {_KINDS[number]} list of wire type {wire}, "
                f"expected a {_KINDS[kind]} list"
            )
        found = (first, last)
    return found


def _messages(data: Buffer, span: Span, wanted: int, what: str) -> Iterator[Span]:
    """The contents of a length-delimited field, each time it occurs."""
    for number, wire, first, last in _fields(data, *span):
        if number != wanted:
            continue
        if wire != _LENGTH:
            raise MalformedRecord(f"{what} has wire type {wire} at byte {first}")
        yield first, last


def _fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type and the span of the value, of each field of a message."""
    position = start
    while position < end:
        tag, first = data[position], position + 1
        if tag >= 0x80:  # more than one byte, which is rare
            tag, first = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        if wire == _LENGTH:
            length, first = _varint(data, first, end)
            last = first + length
        elif wire == _VARINT:
            last = _varint(data, first, end)[1]
        elif wire in (_FIXED64, _FIXED32):
            last = first + (8 if wire == _FIXED64 else 4)
        else:
            raise MalformedRecord(f"unknown wire type {wire} at byte {position}")
        if number == 0:
            raise MalformedRecord(f"field number 0 at byte {position}")
        if last > end:
            raise MalformedRecord(f"the message is cut off at byte {position}")
        yield number, wire, first, last
        position = last


def _varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    """An unsigned number of at most 64 bits, and the position after it."""
    if position < end and data[position] < 0x80:
        return data[position], position + 1
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80 and value < 2**64:
            return value, position
        if byte < 0x80:
            break
    reason = "is cut off" if position == end and shift < 70 else "exceeds 64 bits"
    raise MalformedRecord(f"the number before byte {position} {reason}")


def _text(key: bytes, position: int) -> str:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedRecord(f"a name is not UTF-8 at byte {position}") from error
