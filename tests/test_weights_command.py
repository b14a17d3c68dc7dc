"""The script that converts weights: what it writes, and how it refuses."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from golden_fill import golden_arrays
from helpers import ROOT, TINY
from official_pickle import official_pickle

from nfnets import nfnet, registry
from nfnets.weights import convert_haiku, export_haiku, load_weights
from nfnets.weights.haiku import official_shapes

SCRIPT = ROOT / "experiments" / "convert_weights.py"
NAME = "nfnet_tiny"


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    """Makes the tiny network one of the models."""
    row = registry.get_variant("nfnet_f0", **TINY)
    monkeypatch.setitem(nfnet.VARIANTS, NAME, row)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("convert_weights", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def arrays():
    return golden_arrays({name: shape for name, shape, _ in official_shapes(NAME, 7)})


@pytest.fixture
def convert(script, tmp_path, arrays, capsys):
    """Runs the script on an official file; gives its status and what it printed."""
    weights = tmp_path / "F0_haiku.npz"
    weights.write_bytes(official_pickle(arrays))

    def run(*more: str):
        out = tmp_path / "tiny.safetensors"
        given = {"--model": NAME, "--weights": str(weights), "--out": str(out)}
        arguments = [f"{key}={value}" for key, value in given.items()]
        status = script.main([*arguments, *more])
        return status, capsys.readouterr()

    return run


def test_what_is_written(convert, tmp_path, arrays):
    status, printed = convert("--metadata=top1=0.836", "--metadata", "note=a=b")
    assert status == 0
    assert f"F0_haiku.npz: {len(arrays)} arrays, " in printed.out
    assert ", 7 classes\n" in printed.out
    loaded = load_weights(NAME, tmp_path / "tiny.safetensors")
    expected = convert_haiku(NAME, arrays)
    found = export_haiku(NAME, loaded)
    for name, value in export_haiku(NAME, expected).items():
        np.testing.assert_array_equal(found[name], value)
    source = (tmp_path / "F0_haiku.npz").read_bytes()
    said = json.loads((tmp_path / "tiny.json").read_text("utf-8"))
    assert said["metadata"] == {
        "source": "F0_haiku.npz",
        "source_sha256": hashlib.sha256(source).hexdigest(),
        "top1": 0.836,
        "note": "a=b",
    }


def test_nothing_is_overwritten_unasked(convert, tmp_path):
    (tmp_path / "tiny.json").write_text("mine", encoding="utf-8")
    status, printed = convert()
    assert status == 2
    assert printed.err == (
        f"error: {tmp_path / 'tiny.json'} exists; name another --out, or add "
        f"--overwrite\n"
    )
    assert (tmp_path / "tiny.json").read_text("utf-8") == "mine"
    assert convert("--overwrite")[0] == 0
    assert json.loads((tmp_path / "tiny.json").read_text("utf-8"))["model"] == NAME


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("--metadata=top1", "'top1' should be KEY=VALUE"),
        ("--metadata==1", "'=1' should be KEY=VALUE"),
        ("--model=nfnet_f1", "not the weights of nfnet_f1"),
        ("--model=nfnet_f9", "unknown model 'nfnet_f9'"),
        ("--weights=nowhere.npz", "nowhere.npz does not exist"),
        ("--out=/nowhere/a.npz", "should end in .safetensors"),
        ("--out=/nowhere/a.safetensors", "cannot write"),
    ],
)
def test_mistakes_are_one_line(convert, argument, reason):
    status, printed = convert(argument)
    assert status == 2
    assert printed.err.count("\n") == 1
    assert reason in printed.err
    assert "wrote" not in printed.out


def test_numbers_and_words_of_metadata(script):
    assert script.parse_metadata("a=3") == ("a", 3)
    assert script.parse_metadata("a=83.6") == ("a", 83.6)
    assert script.parse_metadata("a=nan") == ("a", "nan")
    assert script.parse_metadata("a=") == ("a", "")


def test_the_command_itself_ends_without_a_traceback(tmp_path):
    file = tmp_path / "F0_haiku.npz"
    file.write_bytes(b"cposix\nsystem\n(Vecho ran\ntR.")
    command = [sys.executable, str(SCRIPT), "--model=nfnet_f0", f"--weights={file}"]
    command.append(f"--out={tmp_path / 'a.safetensors'}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: cannot read ")
    assert "it names posix.system" in done.stderr
    assert done.stderr.count("\n") == 1
