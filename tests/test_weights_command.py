"""The command about files of weights: what it says and writes, how it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from golden_fill import golden_arrays
from helpers import ROOT, TINY, tiny_recipe
from official_pickle import official_pickle

from nfnets import command_line, nfnet, registry
from nfnets.initialize import init_variables
from nfnets.training import checkpoint, workdir
from nfnets.training.optimizer import make_optimizer
from nfnets.training.state import init_state
from nfnets.weights import convert_haiku, export_haiku, load_weights
from nfnets.weights.haiku import official_shapes
from nfnets.weights.keras import keras_shapes
from nfnets.weights.timm import timm_shapes

SCRIPT = ROOT / "experiments" / "weights.py"
NAME = "nfnet_tiny"


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    """Makes the tiny network one of the models."""
    row = registry.get_variant("nfnet_f0", **TINY)
    monkeypatch.setitem(nfnet.VARIANTS, NAME, row)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("weights_command", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def arrays():
    return golden_arrays({name: shape for name, shape, _ in official_shapes(NAME, 7)})


@pytest.fixture
def call(script, capsys):
    """Runs the command; gives its status and what it printed."""

    def run(*arguments):
        status = script.main([str(argument) for argument in arguments])
        return status, capsys.readouterr()

    return run


@pytest.fixture
def official(tmp_path, arrays):
    """A file of the official form."""
    file = tmp_path / "F0_haiku.npz"
    file.write_bytes(official_pickle(arrays))
    return file


@pytest.fixture
def convert(call, tmp_path, official):
    """Converts that file to ours."""

    def run(*more: str):
        out = tmp_path / "tiny.safetensors"
        given = {"model": NAME, "weights": official, "out": out, "to": "ours"}
        arguments = [f"--{key}={value}" for key, value in given.items()]
        return call("convert", *arguments, *more)

    return run


def test_what_is_written(convert, tmp_path, arrays):
    status, printed = convert("--metadata=top1=0.836", "--metadata", "note=a=b")
    assert status == 0
    assert f"F0_haiku.npz: {NAME}, {len(arrays)} arrays, " in printed.out
    assert ", 7 classes\n" in printed.out
    written = (tmp_path / "tiny.safetensors").read_bytes()
    assert printed.out.endswith(f"sha256 {hashlib.sha256(written).hexdigest()}\n")
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
        ("--to=timm", "nfnet_tiny has no weights of timm: its dm_nfnet_*"),
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


def lines_of(printed):
    """What info printed, by its first words."""
    pairs = [line.split(maxsplit=1) for line in printed.out.splitlines()]
    return {key: value for key, value in pairs if not key.startswith("NFNet/")}


def test_info_of_an_official_file(call, official, arrays):
    status, printed = call("info", official, "--list")
    assert status == 0
    said = lines_of(printed)
    assert said["sha256"] == hashlib.sha256(official.read_bytes()).hexdigest()
    assert said["form"].startswith("pickle")
    assert said["names"] == "DeepMind's (Haiku)"
    assert said["arrays"] == f"{len(arrays)}, of which 0 are statistics"
    total = sum(array.size for array in arrays.values())
    assert said["params"] == f"{total:,} numbers (without statistics)"
    assert said["dtypes"] == f"float32 ({len(arrays)})"
    assert said["fits"] == NAME
    assert "NFNet/~/stem_conv0/w [3, 3, 3, 8] float32\n" in printed.out
    _, printed = call("info", official, "--model=nfnet_f0")
    assert "not the weights of nfnet_f0: " in lines_of(printed)["fits"]


def test_info_of_ours_tells_a_changed_file(call, convert, tmp_path):
    convert("--metadata=top1=0.836")
    file = tmp_path / "tiny.safetensors"
    said = lines_of(call("info", file)[1])
    assert said["sha256"].endswith(" (as tiny.json says)")
    assert json.loads(said["metadata"])["metadata"]["top1"] == 0.836
    assert (said["names"], said["fits"]) == ("ours", NAME)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    said = lines_of(call("info", file)[1])
    assert said["sha256"].endswith(" (NOT the file that tiny.json describes)")
    status, printed = call("convert", f"--weights={file}", "--out=a.npz", "--to=haiku")
    assert status == 2
    assert "is not the file that tiny.json describes" in printed.err
    beside = file.with_suffix(".json")
    changed = json.loads(beside.read_text()) | {"model_overrides": {"num_classes": 3}}
    beside.write_text(json.dumps(changed))
    status, printed = call("info", file)
    assert status == 2
    assert "its model_overrides should be fields of nfnet_tiny" in printed.err
    beside.unlink()
    assert lines_of(call("info", file)[1])["fits"] == NAME
    status, printed = call("convert", f"--weights={file}", "--out=a.npz", "--to=haiku")
    assert status == 2
    assert "does not say of which model it is; give --model=NAME" in printed.err


@pytest.mark.parametrize(
    ("model", "names", "statistics"),
    [("resnet18", "timm's", 60), ("effnet_b0", "Keras's", 98)],
)
def test_info_names_the_one_model_that_fits(model, names, statistics, call, tmp_path):
    """Shapes alone, of all zeros; the numbers of BatchNorms are the architecture's."""
    path = tmp_path / "weights.npz"
    shapes = timm_shapes(model) if names == "timm's" else keras_shapes(model)
    np.savez(path, **{a.name: np.zeros(a.shape) for a in shapes})
    said = lines_of(call("info", path)[1])
    assert (said["form"], said["names"], said["fits"]) == (".npz", names, model)
    assert said["arrays"] == f"{len(shapes)}, of which {statistics} are statistics"


def test_info_of_arrays_of_nobody(call, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    said = lines_of(call("info", tmp_path / "a.npz")[1])
    assert said["names"] == "of a program that is not known here"
    assert said["fits"].startswith("none of our models")
    status, printed = call("info", tmp_path)
    assert status == 2
    assert "is a directory, but not of a run" in printed.err


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work directory with one checkpoint, and its moving average."""
    recipe = tiny_recipe(data__num_classes=10)
    variables = init_variables(recipe.create_model(), jax.random.key(7), 8)
    state = init_state(
        variables, make_optimizer(recipe, variables["params"]), keep_ema=True
    )
    average = jax.tree.map(lambda x: x + 1, state.params)
    directory = tmp_path_factory.mktemp("run")
    workdir.make_writable(directory)
    workdir.claim(directory, recipe)
    with checkpoint.open_manager(directory / workdir.CHECKPOINTS, str) as manager:
        changed = dataclasses.replace(state, ema_params=average)
        checkpoint.save(manager, changed, {"step": 0}, None)
        checkpoint.finish(manager)
    return directory, jax.device_get(average)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_gives_its_moving_average(call, run, tmp_path, monkeypatch):
    # It would also keep the other tests' logs quiet.
    monkeypatch.setattr(command_line, "quiet_checkpoint_library", lambda: None)
    directory, average = run
    said = lines_of(call("info", directory)[1])
    assert said["form"] == "checkpoint"
    assert '"weights": "moving average"' in said["metadata"]
    assert said["fits"].startswith("nfnet_f0 with model_overrides {")
    out = tmp_path / "a.safetensors"
    for place in (directory, directory / "checkpoints" / "0"):
        arguments = (f"--weights={place}", f"--out={out}", "--to=ours", "--overwrite")
        assert call("convert", *arguments)[0] == 0
        loaded = load_weights("nfnet_f0", out, overrides=TINY)
        jax.tree.map(np.testing.assert_array_equal, loaded["params"], average)
    # The .json of ours says which network it is.
    haiku = tmp_path / "a.npz"
    status, _ = call("convert", f"--weights={out}", f"--out={haiku}", "--to=haiku")
    assert status == 0
    loaded = load_weights("nfnet_f0", haiku, overrides=TINY)
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], average)
    arguments = ("--model=nfnet_f1", f"--weights={directory}", "--out=b", "--to=ours")
    status, printed = call("convert", *arguments)
    assert status == 2
    assert "has the model nfnet_f0, not nfnet_f1" in printed.err


def test_metadata_is_for_our_form(call, official, tmp_path):
    status, printed = call(
        "convert",
        f"--model={NAME}",
        f"--weights={official}",
        f"--out={tmp_path / 'a.pkl'}",
        "--to=haiku",
        "--metadata=top1=1",
    )
    assert status == 2
    assert "--metadata needs --to=ours" in printed.err


def test_the_command_itself_ends_without_a_traceback(tmp_path):
    file = tmp_path / "F0_haiku.npz"
    file.write_bytes(b"cposix\nsystem\n(Vecho ran\ntR.")
    command = [sys.executable, str(SCRIPT), "info", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: cannot read ")
    assert "it names posix.system" in done.stderr
    assert done.stderr.count("\n") == 1
