"""Pickles that must be refused, by what is wrong with them."""

from __future__ import annotations

import os
import pickle
import random
import struct

import numpy as np

P4 = b"\x80\x04"
STOP = b"."


class Reduced:
    """Pickled as ``function(*args)``, with a state that may be set."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def text(value: str) -> bytes:
    """Pushes a string (BINUNICODE)."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def name(module: str, attribute: str) -> bytes:
    """Pushes a global (STACK_GLOBAL)."""
    return text(module) + text(attribute) + b"\x93"


FLOAT32 = (
    name("numpy", "dtype") + text("f4") + b"\x89\x88\x87R(K\x03" + text("<") + b"NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
EMPTY = name("numpy.core.multiarray", "_reconstruct")
EMPTY += name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"


def array(shape: bytes, data: bytes = b"C\x04\x00\x00\x80?", dtype: bytes = FLOAT32):
    """Pushes an array from the opcodes of its shape and data."""
    return EMPTY + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def tree(value: bytes) -> bytes:
    """The pickle of {"net": {"w": value}}."""
    return P4 + b"}" + text("net") + b"}" + text("w") + value + b"ss" + STOP


VALID = tree(array(b"K\x01\x85"))


def that_run_code(marker: str) -> dict[str, bytes]:
    """Each of them makes the file ``marker`` when it is unpickled, or tries to."""
    touch = f"open({marker!r}, 'w')"
    arguments = {
        "os.system": Reduced(os.system, (f"touch {marker}",)),
        "builtins.eval": Reduced(eval, (touch,)),
        "builtins.exec": Reduced(exec, (touch,)),
        "builtins.open": Reduced(open, (marker, "w")),
        "numpy.load": Reduced(np.load, (marker, None, True)),
        "numpy.fromfile": Reduced(np.fromfile, (marker,)),
    }
    made = {key: pickle.dumps({"net": {"w": v}}) for key, v in arguments.items()}
    call = text(f"touch {marker}") + b"\x85R"
    module = name("dill._dill", "_import_module") + text("os") + b"\x85R"
    return made | {
        "getattr": tree(name("builtins", "getattr") + b"N" + text("x") + b"\x86R"),
        "dill _get_attr of os": tree(
            name("dill._dill", "_get_attr") + module + text("system") + b"\x86R" + call
        ),
        "dill _import_module": tree(module),
        "dill _create_array of os.system": tree(
            name("dill._dill", "_create_array")
            + b"("
            + name("os", "system")
            + text(marker)
            + b"\x85NNtR"
        ),
        "INST": b"(V" + f"touch {marker}".encode() + b"\nios\nsystem\n.",
        "OBJ": P4 + b"(" + name("os", "system") + text(f"touch {marker}") + b"o.",
        "GLOBAL": b"cos\nsystem\n(V" + f"touch {marker}".encode() + b"\ntR.",
        "NEWOBJ": tree(name("subprocess", "Popen") + text("true") + b"\x85\x81"),
        "NEWOBJ_EX": tree(EMPTY + b")}\x92"),
        "copyreg._reconstructor": tree(
            name("copyreg", "_reconstructor")
            + b"("
            + name("os", "_wrap_close")
            + b"NNtR"
        ),
        "object.__reduce_ex__": tree(name("builtins", "object.__reduce_ex__") + b")R"),
    }


def that_hold_something_else() -> dict[str, bytes]:
    """Values that are no arrays of numbers."""
    dumps = {
        "objects": np.array([1, "a"], object),
        "records": np.zeros(2, [("a", "f4")]),
        "dates": np.zeros(2, "M8[s]"),
        "strings": np.array(["a"]),
        "complex numbers": np.zeros(2, complex),
        "a list": [1.0],
        "a set": {1},
        "a number": 3,
        "nothing": None,
    }
    return {key: pickle.dumps({"net": {"w": each}}) for key, each in dumps.items()}


def that_are_no_arrays() -> dict[str, bytes]:
    """Names, shapes and states that no file of arrays has."""
    core = "numpy.core.multiarray"
    big = struct.pack("<i", 2**31 - 1)
    return {
        "numpy.ndarray called": tree(
            name("numpy", "ndarray") + b"\x8a\x06" + (2**40).to_bytes(6, "little")
            + b"\x85\x85R"
        ),
        "a huge ndarray": tree(name("numpy", "ndarray") + b"J" + big + b"\x85\x85R"),
        "a dotted name": tree(name("numpy", "core.multiarray._reconstruct")),
        "another dotted name": tree(name(core, "_reconstruct.__class__")),
        "a name with a space": b"cnumpy core\nmultiarray\n.",
        "a name that is no string": P4 + b"K\x01K\x02\x93.",
        "a subclass of ndarray": tree(
            name(core, "_reconstruct") + name("numpy", "matrix") + b"K\x00\x85N\x87R"
        ),
        "1 TB": tree(array(b"J" + struct.pack("<i", 2**30) + b"K\xff\x86")),
        "a negative shape": tree(array(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86")),
        "a shape of booleans": tree(array(b"\x88\x85")),
        "a shape of strings": tree(array(text("4") + b"\x85")),
        "a shape with a zero": tree(array(b"K\x00\x85", b"C\x00")),
        "a nested shape": tree(array(b"K\x01\x85\x85")),
    }  # fmt: skip


def that_are_no_trees() -> dict[str, bytes]:
    """States, keys and levels that no file of arrays has."""
    return {
        "no state": tree(EMPTY),
        "a state twice": tree(array(b"K\x01\x85") + b"}b"),
        "a state of a dictionary": tree(b"}" + b"}" + text("__class__") + b"Nsb"),
        "a state of a class": tree(
            name("numpy", "ndarray") + b"}" + text("__reduce__") + b"Nsb"
        ),
        "__setstate__": tree(EMPTY + b"}" + text("__setstate__") + b"Nsb"),
        "keys that are numbers": P4 + b"}K\x01}ss.",
        "a key that is None": P4 + b"}N}s.",
        "keys that are bytes": P4 + b"}C\x01a}s.",
        "a name with a line break": P4 + b"}" + text("a\nb") + b"}" + text("w")
        + array(b"K\x01\x85") + b"ss.",
        "three levels": tree(b"}" + text("w") + array(b"K\x01\x85") + b"s"),
        "one level": P4 + b"}" + text("w") + array(b"K\x01\x85") + b"s.",
        "no array": P4 + b"}.",
        "a module without a dictionary": P4 + b"}" + text("net") + b"Ns.",
        "axes": tree(
            name("numpy._core.numeric", "_frombuffer")
            + b"(C\x04abcd" + FLOAT32 + b"K\x01\x85" + text("K") + b"K\x07\x85tR"
        ),
    }  # fmt: skip


def that_are_damaged() -> dict[str, bytes]:
    """Cut short, or with opcodes that no reader needs."""
    generator = random.Random(0)
    return {
        "nothing at all": b"",
        "one byte": b"\x80",
        "random bytes": generator.randbytes(5000),
        "random bytes of a pickle": P4 + generator.randbytes(5000),
        **{f"cut at {i}": VALID[:i] for i in (2, 10, 60, len(VALID) - 1)},
        "EXT1": P4 + b"\x82\x01.",
        "EXT2": P4 + b"\x83\x01\x00.",
        "EXT4": P4 + b"\x84\x01\x00\x00\x00.",
        "PERSID": b"Pmodule\n.",
        "BINPERSID": P4 + text("module") + b"Q.",
        "NEXT_BUFFER": b"\x80\x05\x97.",
        "READONLY_BUFFER": b"\x80\x05\x97\x98.",
        "protocol 255": b"\x80\xff}.",
        "an unknown opcode": P4 + b"\xff.",
        "a strange escape": rb"c\d\n\q\n.".replace(rb"\n", b"\n"),
        "no string quotes": b"Sabc\n.",
        "an empty stack": P4 + b"\x85.",
        "no mark": P4 + b"t.",
        "an open mark": P4 + b"(}.",
        "two values": P4 + b"}}.",
        "an odd number of items": P4 + b"}(" + text("a") + b"u.",
        "a memo that is not there": P4 + b"h\x07.",
        "memo -1": b"g-1\n.",
        "LONG_BINPUT 2**31-1": P4 + b"}r\xff\xff\xff\x7f.",
        "LONG_BINPUT 2**32-1": P4 + b"}r\xff\xff\xff\xff.",
        "LONG4 of 2 GB": P4 + b"\x8b\xff\xff\xff\x7f.",
        "LONG4 below zero": P4 + b"\x8b\xff\xff\xff\xff.",
        "LONG of a million digits": b"L" + b"9" * 10**6 + b"L\n.",
        "INT of a million digits": b"I" + b"9" * 10**6 + b"\n.",
        "BINBYTES8 of 1 TB": P4 + b"\x8e" + struct.pack("<Q", 2**40) + b"a.",
        "BINUNICODE8 of 8 EB": P4 + b"\x8d" + struct.pack("<Q", 2**63 - 1) + b"a.",
        "BINBYTES8 of 16 EB": P4 + b"\x8e" + struct.pack("<Q", 2**64 - 1) + b"a.",
        "BYTEARRAY8 of 1 TB": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",
        "FRAME of 4 EB": P4 + b"\x95" + struct.pack("<Q", 2**62) + b"}.",
    }


def that_explode() -> dict[str, bytes]:
    """Small files that stand for much, or deep, or endless values."""
    deep = 200_000
    one = array(b"K\x01\x85") + b"\x94"
    flat_map = name("haiku._src.data_structures", "FlatMap") + b"\x94"
    tuples, dicts = b"N\x94", b"}\x94"
    for i in range(30):
        again = b"h" + bytes([i])
        tuples = b"(" + tuples + again * 9 + b"t\x94"
        dicts = b"}(" + text("a") + dicts + text("b") + again + b"u\x94"
    parameters = b"".join(text(f"p{i}") + b"h\x01" for i in range(2000))
    shared = b"}\x94(" + text("p") + one + parameters + b"u"
    modules = b"".join(text(f"m{i}") + b"h\x00" for i in range(2000))
    return {
        "nested tuples": P4 + b"(" * deep + b"t" * deep + STOP,
        "nested tuples of one": tree(b"N" + b"\x85" * deep),
        "a nested key": P4 + b"}N" + b"\x85" * deep + b"Ns.",
        "nested dictionaries": P4 + (b"}" + text("a")) * deep + b"N" + b"s" * deep
        + STOP,
        "nested FlatMaps": P4 + flat_map + b"h\x00" * deep + b"}" + b"\x85R" * deep
        + b"\x85R" + STOP,
        "nested FlatMaps as an array": tree(
            flat_map + b"h\x00" * deep + b"}" + b"\x85R" * deep + b"\x85R"
        ),
        "a deep shape": tree(array(b"K\x01" + b"\x85" * deep)),
        "a nested order": tree(
            name("numpy._core.numeric", "_frombuffer") + b"(C\x04abcd" + FLOAT32
            + b"K\x01\x85" + b"N" + b"\x85" * deep + b"tR"
        ),
        "a circle": P4 + b"}\x94" + text("net") + b"h\x00s.",
        "a circle through a state": tree(EMPTY + b"\x94h\x00b"),
        "billion laughs": tree(tuples),
        "billion laughs of dictionaries": P4 + dicts + STOP,
        "a million marks": P4 + b"(" * 1_000_001 + STOP,
        "a million references": P4 + b"}\x94" + b"h\x00" * 1_000_001 + STOP,
        "4 million names": P4 + b"}(" + text("m") + shared + modules + b"u.",
        "2 GB of one string": P4 + b"}" + text("m") + b"}(" + many_strings() + b"us.",
    }  # fmt: skip


def many_strings() -> bytes:
    """Items of a dictionary: 2000 arrays of 1 MB, each encoded from the same string."""
    encode = name("_codecs", "encode") + b"%s" + text("latin1") + b"\x86R"
    dtype = FLOAT32.replace(b"f4", b"u1")
    shape = b"J" + struct.pack("<i", 2**20) + b"\x85"
    first = array(shape, encode % (text("a" * 2**20) + b"\x94"), dtype)
    again = array(shape, encode % b"h\x00", dtype)
    return text("p") + first + b"".join(text(f"p{i}") + again for i in range(2000))


def hostile_pickles(marker: str) -> dict[str, bytes]:
    """All of them; some would make the file ``marker``, none may."""
    cases = that_run_code(marker) | that_hold_something_else() | that_are_no_arrays()
    return cases | that_are_no_trees() | that_are_damaged() | that_explode()
