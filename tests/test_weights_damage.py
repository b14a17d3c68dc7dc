"""Files that are no weights, are damaged, or are made to do harm: one line each."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from helpers import TINY

from nfnets import nfnet, registry
from nfnets.errors import UserError
from nfnets.flops import abstract_variables, count_params
from nfnets.weights import load_weights, save_weights

MODEL = "nfnet_tiny"
HEAD = "NFNet/~/linear/b"


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    """A network that is traced in no time, among the models."""
    row = registry.get_variant("nfnet_f0", **TINY)
    monkeypatch.setitem(nfnet.VARIANTS, MODEL, row)


def refusal(path, model=MODEL) -> str:
    """The message of the UserError for a file, which is one line."""
    with pytest.raises(UserError) as error:
        load_weights(model, path)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.fixture
def file(tmp_path):
    """Writes a file of that content and returns its path."""

    def write(content: bytes):
        path = tmp_path / "F0_haiku.npz"
        path.write_bytes(content)
        return path

    return write


def test_what_is_no_file(tmp_path):
    missing = tmp_path / "missing.npz"
    assert refusal(missing) == f"{missing} does not exist; give a file of weights"
    assert "is a directory" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is a device or a pipe" in refusal(tmp_path / "pipe")
    assert "is not on this machine" in refusal("gs://bucket/F0_haiku.npz")
    with pytest.raises(UserError, match="is not on this machine"):
        save_weights(MODEL, {}, "gs://bucket/a.safetensors")
    with pytest.raises(UserError, match="is a directory"):
        save_weights(MODEL, {}, tmp_path)


CONTENTS = {
    b"": "is empty",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "git lfs pull",
    b"<!DOCTYPE html><html><title>404</title></html>": "is a web page",
    b"\n<HTML><body>": "is a web page",
    b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>": "is a web page",
    b"Not Found": "it begins with b'Not Found'",
    b'{"error": 404}': "it begins with",
    bytes(1000): "it begins with",
    b"curl: (22) The requested URL returned error: 404": "it is damaged",
    b"PK\x03\x04 and nothing more": "is not a zip file",
    b"\x80\x04.": "it is damaged",
}


@pytest.mark.parametrize("content", CONTENTS)
def test_what_holds_no_weights(file, content):
    message = refusal(file(content))
    assert "F0_haiku.npz" in message
    assert CONTENTS[content] in message


def test_unknown_models_are_named_before_the_file_is_read(tmp_path):
    assert "unknown model 'nfnet_f9'" in refusal(tmp_path / "missing", "nfnet_f9")


# --- .npz --------------------------------------------------------------------------


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def header(literal: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An .npy file with any header."""
    size = struct.pack("<H", len(literal))
    return b"\x93NUMPY" + version + size + literal.encode() + data


def described(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def npz(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


OBJECTS = npy(np.array([None, "x"], object))
BAD_MEMBERS = {
    "objects": (OBJECTS, "dtype object"),
    "records": (npy(np.zeros(2, [("a", "f4")])), "of dtype"),
    "dates": (npy(np.zeros(2, "M8[s]")), "of dtype"),
    "strings": (npy(np.array(["a"])), "of dtype"),
    "1 TB": (header(described("(1099511627775,)"), b"abcd"), "and has 4"),
    "overflow": (header(described(f"({2**63},)"), b"abcd"), "positive numbers"),
    "negative": (header(described("(-1,)"), b"abcd"), "positive numbers"),
    "zero": (header(described("(0,)")), "positive numbers"),
    "a call": (header(described("__import__('os').getpid()")), "in its header"),
    "deep": (header("-" * 9000 + "1\n"), "in its header"),
    "brackets": (header("(" * 9000 + "\n"), "in its header"),
    "long": (header("(" + " " * 30000 + ")\n"), "in its header"),
    "no header": (b"", "in its header"),
    "text": (b"hello", "in its header"),
    "a later version": (header(described("(1,)"), b"abcd", b"\x03\x00"), "header"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_members_that_are_no_plain_arrays(file, case):
    content, reason = BAD_MEMBERS[case]
    message = refusal(file(npz({f"{HEAD}.npy": content})))
    assert f"its member {HEAD}.npy is not read" in message
    assert reason in message


def test_archives_that_are_not_of_arrays(file):
    assert "data.pkl is not .npy" in refusal(file(npz({"data.pkl": b"x"})))
    assert "is missing" in refusal(file(npz({"a.npy": npy(np.zeros(1))})))
    assert "is not plain text" in refusal(file(npz({"a\x1b[2J.npy": b""})))
    lzma = npz({"a.npy": npy(np.zeros(1))}, zipfile.ZIP_LZMA)
    assert "compressed in an unusual way" in refusal(file(lzma))
    whole = npz({"a.npy": npy(np.arange(1000.0))}, zipfile.ZIP_STORED)
    encrypted = whole.replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
    )
    assert encrypted != whole
    assert "is encrypted" in refusal(file(encrypted))
    directory = b"PK\x01\x02\x14\x03\x14"
    later = whole.replace(directory, b"PK\x01\x02\x14\x03\xff")
    assert "zip file version 25.5" in refusal(file(later))
    utf8 = whole.replace(directory + b"\0\0\0", directory + b"\0\0\x08")
    assert "codec can't decode" in refusal(file(utf8.replace(b"a.npy", b"\xff.npy")))
    assert "Bad CRC-32" in refusal(file(whole.replace(b"\xf0?", b"\xf1?", 1)))
    assert "is not a zip file" in refusal(file(whole[: len(whole) // 2]))


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(file):
    """100 MB of zeros in 100 kB: refused by the archive's directory alone."""
    limit = 16 * count_params(MODEL)
    zeros = header(described("(25000000,)")) + bytes(10**8)
    bomb = npz({f"{HEAD}.npy": zeros})
    assert len(bomb) < limit < 10**8
    assert f"it unpacks to more than {limit} bytes" in refusal(file(bomb))


def test_a_file_of_many_classes_is_read(tmp_path):
    """Its classifier alone is larger than what the network takes with 1000 classes."""
    model = registry.create_model(MODEL, num_classes=30_000)
    variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), abstract_variables(model, 32)
    )
    path = tmp_path / "many.npz"
    np.savez(path, **flatten_dict(variables, sep="/"))
    assert path.stat().st_size > 16 * count_params(MODEL)
    head = load_weights(MODEL, path)["params"]["head"]
    assert head["bias"].shape == (30_000,)


# --- .safetensors -------------------------------------------------------------------


def st(entries: dict, data: bytes = b"abcd", length: int | None = None) -> bytes:
    """A .safetensors file with any header, or any claim of how long it is."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], end: int = 4, start: int = 0, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


BAD_SAFETENSORS = {
    "cut": st({"a": entry([1])})[:-1],
    "cut in the header": st({"a": entry([1])})[:20],
    "header of 1 TB": st({"a": entry([1])}, length=2**40),
    "header of 16 EB": st({"a": entry([1])}, length=2**64 - 1),
    "overlapping": st({"a": entry([1]), "b": entry([1])}),
    "wrong shape": st({"a": entry([2])}),
    "huge shape": st({"a": entry([2**40, 2**40])}),
    "past the end": st({"a": entry([1], 4000, 3996)}),
    "a negative shape": st({"a": entry([-1])}),
    "float8": st({"a": entry([4], dtype="F8_E4M3")}),
    "complex": st({"a": entry([1], 8, dtype="C64")}, b"abcdabcd"),
    "control characters": st({"a\n\x1b[2J": entry([1])}),
    "a long name": st({"a" * 1000: entry([1])}),
    "no JSON": struct.pack("<Q", 10) + b"{          ",
    "deep JSON": struct.pack("<Q", 10**5) + b'{"a":' * 20000,
}


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
def test_damaged_safetensors(file, case):
    message = refusal(file(BAD_SAFETENSORS[case]))
    assert message.startswith("cannot read ")
    assert "F0_haiku.npz: " in message


def test_safetensors_of_something_else(file):
    one = safetensors.numpy.save({"params/a": np.ones(1, np.float32)})
    assert "params/head/bias is missing" in refusal(file(one))
    wrong = safetensors.numpy.save({"params/head/bias": np.ones((2, 2), np.float32)})
    assert "params/head/bias is missing" in refusal(file(wrong))
    other = safetensors.numpy.save({"model/weight": np.ones(1, np.float32)})
    assert f"'{HEAD}' is missing" in refusal(file(other))
    torch = safetensors.numpy.save({"model.weight": np.ones(1, np.float32)})
    assert "nfnet_tiny has no weights of timm" in refusal(file(torch))


# --- the package ----------------------------------------------------------------------


def test_without_safetensors_one_line_says_what_to_install(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    message = refusal(file(st({"a": entry([1])})))
    assert message.endswith("is not installed; run: pip install 'nfnets-flax[train]'")


def test_importing_weights_needs_the_base_install_only():
    check = (
        "import sys, nfnets.weights; "
        "print({'safetensors', 'dill', 'haiku', 'torch', 'optax'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", check], check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "set()"
