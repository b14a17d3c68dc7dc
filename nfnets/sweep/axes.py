"""What a sweep varies: axes of settings as text, and the cells that they span.

A setting is a config's field and its value as it is typed after ``--config.FIELD=``, so
a sweep and a run by hand read it alike. The field ``config`` is the recipe's name.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from nfnets.errors import UserError

CONFIG_FIELD, SEED_FIELD = "config", "seed"
_OPENING, _CLOSING = "([{", ")]}"

Setting = tuple[str, str]  # ("optim.agc_clipping", "0.01")
Cell = tuple[Setting, ...]


@dataclasses.dataclass(frozen=True)
class Axis:
    """One dimension of a grid.

    Attributes:
      fields: dotted; several are set together, as a loss and what belongs to it.
      values: one entry per point of the axis, each with a text for every field.
    """

    fields: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


def axis(field: str, *values: Any) -> Axis:
    """An axis of one field, from Python values."""
    return Axis((field,), tuple((str(value),) for value in values))


def joint_axis(fields: Sequence[str], *values: Sequence[Any]) -> Axis:
    """An axis whose points set several fields, from Python values."""
    return Axis(tuple(fields), tuple(tuple(map(str, value)) for value in values))


def parse_axis(text: str) -> Axis:
    """Reads ``FIELD=V1,V2,...`` or ``FIELD,FIELD=(V1,V2),(V3,V4),...``.

    Commas inside brackets or quotes belong to a value.

    Raises:
      UserError: there is no value, or one has not as many parts as there are fields.
    """
    left, equals, right = text.partition("=")
    fields = tuple(field.strip() for field in left.split(","))
    if not equals or not all(fields):
        raise UserError(f"--grid={text}: expected FIELD=V1,V2,...")
    if len(set(fields)) != len(fields):
        raise UserError(f"--grid={text}: a field is named twice")
    points = list(split_values(right))
    if not all(points):
        raise UserError(f"--grid={text}: a value is empty; expected FIELD=V1,V2,...")
    if len(fields) == 1:
        return Axis(fields, tuple((point,) for point in points))
    values = tuple(_parts(point, fields, text) for point in points)
    return Axis(fields, values)


def _parts(point: str, fields: tuple[str, ...], text: str) -> tuple[str, ...]:
    bracketed = point.startswith("(") and point.endswith(")")
    parts = tuple(split_values(point[1:-1])) if bracketed else ()
    if len(parts) != len(fields) or not all(parts):
        raise UserError(
            f"--grid={text}: {point} should be {len(fields)} values in brackets, one "
            f"for each of {', '.join(fields)}"
        )
    return parts


def split_values(text: str) -> Iterator[str]:
    """Yields the parts between the outermost commas, without the quotes around one.

    Raises:
      UserError: a bracket or quote is not closed.
    """
    depth, quote, start = 0, "", 0
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _OPENING:
            depth += 1
        elif letter in _CLOSING:
            depth -= 1
        elif letter == "," and depth == 0:
            yield _unquoted(text[start:i].strip())
            start = i + 1
    if quote or depth:
        raise UserError(f"{text!r}: a bracket or quote is not closed")
    yield _unquoted(text[start:].strip())


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted and text[0] not in text[1:-1] else text


def cells_of(axes: Sequence[Axis]) -> list[Cell]:
    """All combinations; the last axis changes fastest."""
    points = [
        [tuple(zip(a.fields, value, strict=True)) for value in a.values] for a in axes
    ]
    return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*points)]


def cell_name(cell: Cell) -> str:
    """As in ``model=resnet18,seed=0``."""
    return ",".join(f"{field}={value}" for field, value in cell)


def number(text: str) -> float | None:
    """The value of a setting that is a number; None for any other."""
    try:
        return float(text)
    except ValueError:
        return None


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of several commands that share a sweep.

    Attributes:
      index: from 0.
      count: number of shards.
    """

    index: int
    count: int


def parse_shard(text: str) -> Shard:
    """Reads ``i/n``, i from 0 to n - 1.

    Raises:
      UserError: it is something else.
    """
    index, _, count = text.partition("/")
    if index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return Shard(int(index), int(count))
    raise UserError(
        f"--shard={text}: expected i/n with i from 0 to n - 1, as 0/2 and 1/2"
    )
