"""What a pickle says, as inert records: its opcodes are followed, nothing is called.

Unpickling calls whatever a file names. Here the opcodes, listed by `pickletools`, move
plain values and records of "this name, with these arguments" on a stack. A name that is
not in `_NAMES` is refused, and so is every opcode that arrays do not need.
"""

from __future__ import annotations

import dataclasses
import enum
import pickletools
import warnings
from collections.abc import Callable
from typing import Any

from nfnets.weights.arrays import MAX_NAME, Refused

# NFNet-F7 takes 48,000 to 63,000, so a file that has more is none of ours. This bounds
# the time, and what references to one value can make of it.
_MAX_OPCODES = 1_000_000


class Name(enum.Enum):
    """What a pickle of arrays may name; nothing here can be called."""

    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    BFLOAT16 = "the bfloat16 type"
    RECONSTRUCT = "an empty array, whose state follows"
    FROM_BUFFER = "an array over bytes (protocol 5)"
    SCALAR = "a scalar"
    ENCODE = "bytes as a latin-1 string (protocols 0 to 2)"
    MODULE = "a module (dill)"
    ATTRIBUTE = "a name in a module (dill)"
    ARRAY_OF_DILL = "an array as dill writes it"
    ARRAY_OF_JAX = "an array as JAX writes it"
    MAPPING = "a dictionary of Haiku"
    ORDERED_DICT = "collections.OrderedDict"


_HAIKU = "haiku._src.data_structures"
_NAMES: dict[tuple[str, str], Name] = {
    ("numpy", "ndarray"): Name.NDARRAY,
    ("numpy", "dtype"): Name.DTYPE,
    ("ml_dtypes", "bfloat16"): Name.BFLOAT16,
    ("_codecs", "encode"): Name.ENCODE,
    ("collections", "OrderedDict"): Name.ORDERED_DICT,
    # Since 0.3.6 dill wraps arrays. Up to 0.3.4, and so (by its length) in the official
    # F0, it wrote how to find _reconstruct: _get_attr(_import_module(numpy...), name).
    ("dill._dill", "_create_array"): Name.ARRAY_OF_DILL,
    ("dill._dill", "_get_attr"): Name.ATTRIBUTE,
    ("dill._dill", "_import_module"): Name.MODULE,
    # JAX before May 2022, and so the official files, pickled its arrays as NumPy's.
    ("jax._src.device_array", "reconstruct_device_array"): Name.ARRAY_OF_JAX,
    ("jax.experimental.array", "_reconstruct_array"): Name.ARRAY_OF_JAX,
    ("jax._src.array", "_reconstruct_array"): Name.ARRAY_OF_JAX,
    # Haiku writes FlatMapping since August 2020, whatever the class is called.
    (_HAIKU, "FlatMapping"): Name.MAPPING,
    (_HAIKU, "FlatMap"): Name.MAPPING,
    (_HAIKU, "frozendict"): Name.MAPPING,
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    for _module in ("multiarray", "_multiarray_umath"):
        _NAMES[f"{_core}.{_module}", "_reconstruct"] = Name.RECONSTRUCT
        _NAMES[f"{_core}.{_module}", "scalar"] = Name.SCALAR
    _NAMES[f"{_core}.numeric", "_frombuffer"] = Name.FROM_BUFFER


@dataclasses.dataclass(eq=False)
class Record:
    """What unpickling would have made by calling ``name(*args)``."""

    name: Name
    args: tuple[Any, ...]
    state: Any = None  # what would have been given to its __setstate__


@dataclasses.dataclass
class _Machine:
    """The stack, the stacks below open marks, and the memo, of plain values."""

    stack: list[Any] = dataclasses.field(default_factory=list)
    below: list[list[Any]] = dataclasses.field(default_factory=list)
    memo: dict[int, Any] = dataclasses.field(default_factory=dict)

    def push(self, value: Any) -> None:
        """Puts a value on the stack."""
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        """The last values, in the order in which they were pushed."""
        if len(self.stack) < count:
            raise Refused("it is damaged (a value is missing)")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def pop_to_mark(self) -> list[Any]:
        """All values since the last mark."""
        if not self.below:
            raise Refused("it is damaged (a mark is missing)")
        values, self.stack = self.stack, self.below.pop()
        return values

    def top(self) -> Any:
        """The last value, which stays."""
        if not self.stack:
            raise Refused("it is damaged (a value is missing)")
        return self.stack[-1]


def read_records(data: bytes) -> Any:
    """Follows the opcodes of a pickle, of protocol 0 to 5.

    Returns:
      What stands for the pickled object: None, a bool, int, string, bytes or `Name`, or
      a tuple, dictionary or `Record` of such; maybe deep, and maybe in circles.

    Raises:
      Refused: the file is damaged, or is more than a pickle of arrays.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in names
            for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                if count > _MAX_OPCODES:
                    raise Refused(f"it has more than {_MAX_OPCODES} steps")
                if opcode.name == "STOP":
                    break
                if opcode.name not in _OPCODES:
                    raise Refused(f"it uses {opcode.name}, which arrays do not need")
                _OPCODES[opcode.name](machine, argument)
    except ValueError as error:  # from pickletools: cut short, or no pickle
        reason = " ".join(str(error).split())[:120]
        raise Refused(f"it is damaged ({reason})") from error
    if len(machine.stack) != 1 or machine.below:
        raise Refused("it is damaged (not one value is left at its end)")
    return machine.stack[0]


def _put(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.top()


def _memoize(machine: _Machine, _: None) -> None:
    machine.memo[len(machine.memo)] = machine.top()


def _get(machine: _Machine, index: int) -> None:
    if index not in machine.memo:
        raise Refused("it is damaged (it refers to a value that is not there)")
    machine.push(machine.memo[index])


def _mark(machine: _Machine, _: None) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _tuple(machine: _Machine, _: None) -> None:
    machine.push(tuple(machine.pop_to_mark()))


def _dict(machine: _Machine, _: None) -> None:
    items = machine.pop_to_mark()
    target: dict[str, Any] = {}
    _set(target, items)
    machine.push(target)


def _set_item(machine: _Machine, _: None) -> None:
    items = machine.pop(2)
    _set(machine.top(), items)


def _set_items(machine: _Machine, _: None) -> None:
    items = machine.pop_to_mark()
    _set(machine.top(), items)


def _set(target: Any, items: list[Any]) -> None:
    """Sets target[items[0]] = items[1], and so on."""
    if type(target) is not dict or len(items) % 2:
        raise Refused("it sets items of something that is no dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Before it is hashed: hashing a nested tuple can overflow the C stack.
        if type(key) is not str or len(key) > MAX_NAME:
            raise Refused("a key of a dictionary is not a short string")
        target[key] = value


def _global(machine: _Machine, pair: str) -> None:
    module, _, attribute = pair.partition(" ")
    machine.push(_named(module, attribute))


def _stack_global(machine: _Machine, _: None) -> None:
    machine.push(_named(*machine.pop(2)))


def _named(module: Any, attribute: Any) -> Name:
    if type(module) is not str or type(attribute) is not str:
        raise Refused("it names something by what is not a string")
    name = _NAMES.get((module, attribute))
    if name is None:
        shown = f"{module[:80]}.{attribute[:80]}"
        shown = shown if shown.isascii() and shown.isprintable() else ascii(shown)
        raise Refused(f"it names {shown}, which is neither an array nor a dictionary")
    return name


def _call(machine: _Machine, _: None) -> None:
    name, args = machine.pop(2)
    if not isinstance(name, Name) or name in (Name.NDARRAY, Name.BFLOAT16):
        shown = name.value if isinstance(name, Name) else type(name).__name__
        raise Refused(f"it calls {shown}, which makes no array from bytes")
    if type(args) is not tuple:
        raise Refused("it calls something with what is not a tuple")
    if name is Name.ATTRIBUTE:
        machine.push(_attribute(args))
    elif name is Name.ORDERED_DICT and not args:
        machine.push({})  # its items are set later
    else:
        machine.push(Record(name, args))


def _attribute(args: tuple[Any, ...]) -> Name:
    """``_get_attr(_import_module(module), name)`` of dill: a name like any other."""
    module = args[0] if len(args) == 2 else None
    if not isinstance(module, Record) or module.name is not Name.MODULE:
        raise Refused("it takes an attribute of something that is no module")
    return _named(module.args[0] if len(module.args) == 1 else None, args[1])


def _build(machine: _Machine, _: None) -> None:
    (state,) = machine.pop(1)
    record = machine.top()
    if not isinstance(record, Record) or record.state is not None:
        raise Refused("it sets the state of something that has none")
    record.state = state


def _protocol(machine: _Machine, version: int) -> None:
    del machine
    if version > 5:
        raise Refused(f"it is of protocol {version}, and 5 is the last one known")


def _ignore(machine: _Machine, _: Any) -> None:
    del machine


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(value)


def _tuple_of(count: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(tuple(machine.pop(count)))


_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2"), _Machine.push),
    **dict.fromkeys(("UNICODE", "SHORT_BINUNICODE"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "BINUNICODE8", "BYTEARRAY8"), _Machine.push),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"), _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _call),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "EMPTY_TUPLE": _constant(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "TUPLE": _tuple,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "MARK": _mark,
    "DICT": _dict,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "MEMOIZE": _memoize,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "BUILD": _build,
    "PROTO": _protocol,
    "FRAME": _ignore,
}
