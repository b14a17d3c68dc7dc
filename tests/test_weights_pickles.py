"""Pickles of arrays are read without unpickling; anything else is refused, unrun."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import subprocess
import sys
from pathlib import Path

import mutated_files
import numpy as np
import pytest
from helpers import ROOT
from hostile_pickles import P4, STOP, VALID, array, hostile_pickles, name, text
from mutated_files import mutate

from nfnets.weights.arrays import BFLOAT16
from nfnets.weights.pickles import read_pickle

FIXTURES = json.loads(
    (Path(__file__).parent / "golden" / "weights_pickles.json").read_text("utf-8")
)
MADE_ELSEWHERE = [key for key in FIXTURES if not key.startswith("_")]
W = (np.arange(6, dtype=np.float32) / 4 - 0.5).reshape(1, 2, 3)
EXPECTED = {
    "net/skip_gain": np.asarray(0.25, np.float32),
    "net/~/conv/w": W,
    "net/~/conv/gain": np.asarray([1.5, -2], np.float32),
    "net/~/linear/b": W[0].T,
}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert found[key].shape == value.shape, key
        np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize("key", MADE_ELSEWHERE)
def test_pickles_of_other_packages_are_read(key):
    """dill, Haiku, JAX and an older NumPy made these; the values are in the file."""
    expected = EXPECTED
    if "bfloat16" in key:
        expected = {n: a.astype(BFLOAT16) for n, a in EXPECTED.items()}
    assert_equal(read_pickle(bytes.fromhex(FIXTURES[key]), key), expected)


def arrays_of_all_kinds():
    codes = "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ? >f4 >i8".split()
    noise = np.random.default_rng(0).normal(size=(2, 3, 4)) * 3
    positive = np.abs(noise)
    arrays = {code.replace(">", "big_"): positive.astype(code) for code in codes}
    read_only = noise.astype(np.float32)
    read_only.flags.writeable = False
    large = np.arange(90000, dtype=np.float32)
    return arrays | {
        "fortran": np.asfortranarray(noise),
        "permuted": noise.transpose(1, 0, 2),
        "strided": noise[:, ::2],
        "scalar": np.float32(0.1),
        "no_axes": np.array(2.5),
        "bfloat16": noise.astype(BFLOAT16),
        "read_only": read_only,
        "large": large,
        "the_same": large,
    }


@pytest.mark.parametrize("pickler", [pickle.Pickler, pickle._Pickler])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_and_kind_of_array(protocol, pickler):
    arrays = arrays_of_all_kinds()
    stream = io.BytesIO()
    pickler(stream, protocol).dump({"net/~/a": arrays, "net/~/b": {"w": np.ones(2)}})
    found = read_pickle(stream.getvalue(), "here")
    expected = {f"net/~/a/{key}": np.asarray(each) for key, each in arrays.items()}
    assert_equal(found, expected | {"net/~/b/w": np.ones(2)})


FLAT_MAP = name("haiku._src.data_structures", "FlatMap")
ORDERED = name("collections", "OrderedDict") + b")R"
STATES = {
    "attributes": b"}" + text("_mapping") + b"%s" + b"s",
    "slots": b"N}(" + text("_mapping") + b"%s" + text("_structure") + b"Nu\x86",
    "attributes and no slots": b"}" + text("_mapping") + b"%s" + b"sN\x86",
}


@pytest.mark.parametrize("state", STATES)
def test_mappings_that_keep_a_dictionary_in_their_state(state):
    """What `copyreg` writes for a class that does not say how it is pickled."""
    inner = b"}" + text("w") + array(b"K\x01\x85") + b"s"
    mapping = FLAT_MAP + b")\x81" + STATES[state] % inner + b"b"
    found = read_pickle(P4 + b"}" + text("net") + mapping + b"s" + STOP, "here")
    assert_equal(found, {"net/w": np.ones(1, np.float32)})


def test_ordered_dictionaries_are_dictionaries():
    inner = ORDERED + text("w") + array(b"K\x01\x85") + b"s"
    found = read_pickle(P4 + b"}" + text("net") + inner + b"s" + STOP, "here")
    assert_equal(found, {"net/w": np.ones(1, np.float32)})


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """What happened to each hostile pickle, in a process that listens to itself."""
    folder = tmp_path_factory.mktemp("hostile")
    marker, results = folder / "marker", folder / "results.json"
    program = ROOT / "tests" / "audited_reading.py"
    command = [sys.executable, str(program), str(marker), str(results)]
    subprocess.run(command, check=True, cwd=folder, timeout=300)
    assert sorted(path.name for path in folder.iterdir()) == ["results.json"]
    return json.loads(results.read_text("utf-8"))


@pytest.mark.parametrize("case", hostile_pickles("marker"))
def test_hostile_pickles_are_refused_and_nothing_runs(case, hostile):
    happened = hostile[case]
    assert happened["outcome"].startswith("refused: cannot read FILE: ")
    assert "\n" not in happened["outcome"]
    assert len(happened["outcome"]) < 500
    assert happened["seconds"] < 30
    # No import, open, exec, compile, os.system, ...: only our own look-ups by id.
    assert set(happened["events"]) <= {"builtins.id"}


def test_an_unknown_name_is_shown(hostile):
    assert "it names posix.system, " in hostile["os.system"]["outcome"]
    assert "it names os.system, " in hostile["dill _get_attr of os"]["outcome"]
    assert "it names numpy.load, " in hostile["numpy.load"]["outcome"]


def test_names_on_two_levels_that_collide_are_read_once():
    """{"a": {"b/w": x}, "a/b": {"w": y}}: the last one, and no error inside NumPy."""
    one, two = array(b"K\x01\x85"), array(b"K\x01\x85", b"C\x04\x00\x00\x00@")
    first = text("a") + b"}" + text("b/w") + one + b"ss"
    second = text("a/b") + b"}" + text("w") + two + b"ss"
    assert read_pickle(P4 + b"}" + first + second + STOP, "here")["a/b/w"] == 2.0


def refusal_of(data: bytes) -> str | None:
    """Why a pickle is refused; None when it gives plain arrays."""
    return mutated_files.refusal_of(lambda: read_pickle(data, "here"), len(data))


@pytest.mark.parametrize("key", [*MADE_ELSEWHERE, "by hand"])
def test_mutated_files_are_refused_or_plain_arrays(key):
    """400 mutations of each file."""
    data = VALID if key == "by hand" else bytes.fromhex(FIXTURES[key])
    generator = random.Random(key)
    refusals = [refusal_of(mutate(data, generator)) for _ in range(400)]
    assert not [refusal for refusal in refusals if refusal and "\n" in refusal]
    # A changed element of an array is no damage that can be seen.
    assert {refusal is None for refusal in refusals} == {True, False}


def test_every_opcode_at_every_place():
    for place in range(len(VALID)):
        for opcode in pickletools.opcodes:
            code = opcode.code.encode("latin-1")
            refusal_of(VALID[:place] + code + VALID[place + 1 :])
