"""Turns nested dictionaries into frozen dataclasses, and says exactly what is wrong."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from nfnets.errors import UserError, did_you_mean

T = TypeVar("T")


def from_mapping(cls: type[T], values: Mapping[str, Any], path: str = "config") -> T:
    """Builds the frozen dataclass ``cls`` from a mapping of the same shape.

    Every field must be there and no other key may be; values must have the declared
    type (an int is taken for a float, a list for a tuple), and floats be finite.

    Args:
      cls: dataclass whose fields are int, float, str, bool, tuples or unions of these,
        mappings, or dataclasses of the same kind.
      values: one entry per field.
      path: where ``values`` stands, for messages ("config.optim").

    Raises:
      UserError: names the dotted path of the entry that is unknown, missing, ill-typed
        or not finite.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise UserError(f"unknown field {path}.{key}; {did_you_mean(key, names)}")
    missing = [name for name in names if name not in values]
    if missing:
        raise UserError(f"{path}.{missing[0]} is missing; a config states every field")
    converted = {
        name: _convert(hints[name], values[name], f"{path}.{name}") for name in names
    }
    return cls(**converted)


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(typing.cast(type, hint), value, path)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (a for a in arguments if a is not type(None))
        return _convert(inner, value, path)
    if origin is typing.Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, tuple | list):
        return _convert_tuple(arguments, tuple(value), path)
    if (origin or hint) is Mapping and isinstance(value, Mapping):
        return {k: _freeze(v) for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path} is {value}, expected a finite number")
    if isinstance(hint, type) and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    if origin is typing.Literal:
        expected = "one of " + ", ".join(map(repr, arguments))
    raise UserError(
        f"{path} is {value!r} ({type(value).__name__}), expected {expected}"
    )


def _convert_tuple(arguments: tuple[Any, ...], value: tuple, path: str) -> tuple:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise UserError(f"{path} is {value!r}, expected {len(arguments)} entries")
    return tuple(
        _convert(hint, entry, f"{path}[{i}]")
        for i, (hint, entry) in enumerate(zip(arguments, value, strict=True))
    )


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, list) else value


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("optim.momentum", 0.9) pairs of a nested mapping, in order."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from flatten(entry, f"{path}.{key}" if path else str(key))
    else:
        yield path, list(value) if isinstance(value, tuple) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Fields in which two nested mappings differ, as {"optim.momentum": "0.9 -> 0.8"}.

    A field that only one side has is shown as ``absent`` on the other.
    """
    left, right = dict(flatten(old)), dict(flatten(new))
    return {
        key: f"{left.get(key, 'absent')} -> {right.get(key, 'absent')}"
        for key in dict.fromkeys([*left, *right])
        if left.get(key, "absent") != right.get(key, "absent")
    }
