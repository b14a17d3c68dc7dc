"""Exported files run where this project is not imported, and give the same logits."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY, run_script, with_changes
from saved_run import CLASSES, PIXELS, RECIPE, network, save_run

from nfnets.data.normalization import normalize
from nfnets.errors import UserError
from nfnets.export import exporting
from nfnets.export.check import ExportError, check
from nfnets.export.exporting import check_target, export_weights
from nfnets.export.fold import fold_variables
from nfnets.export.formats import FORMATS, write_onnx, write_stablehlo
from nfnets.export.network import Network, network_of
from nfnets.export.slices import max_over_windows, sum_over_windows
from nfnets.flops import abstract_variables
from nfnets.layers import avg_pool_same
from nfnets.registry import create_model
from nfnets.training import tested_weights

# A network of each kind, by model: fields of its row. Convolutions in groups and
# averages over odd sides; depthwise convolutions; BatchNorm after maxima over windows;
# attention, with positions for another grid.
NETWORKS = {
    "nfnet_f0": TINY | {"strides": (2, 2)},
    "effnetv2_b0": {
        "stages": ("r1_k3_s1_e1_i24_o24_c1", "r1_k3_s2_e4_i24_o32_se0.25"),
    },
    "resnet50": {"depths": (1, 1, 1, 1)},
    "deit_ti": {"depth": 1, "width": 32, "heads": 2, "patch": 4, "train_size": 16},
}
SIZE = 20
IMAGES = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)


def quiet(line: str) -> None:
    del line


def filled(name: str) -> Network:
    """A network of random weights, in which no gain is 0."""
    model = create_model(name, num_classes=7, **NETWORKS[name])
    random = np.random.default_rng(1)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = random.standard_normal(leaf.shape).astype(np.float32)
        if leaf.ndim > 1:
            return noise * np.float32(math.prod(leaf.shape[:-1]) ** -0.5)
        return np.float32(0.5) + np.abs(noise)

    variables = jax.tree.map(draw, abstract_variables(model, SIZE))
    return Network(model, variables, SIZE, "imagenet")


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    return {name: filled(name) for name in NETWORKS}


@pytest.fixture(scope="module")
def logits(networks) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(jax.jit(network.logits)(network.variables, IMAGES))
        for name, network in networks.items()
    }


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * abs(expected).max())


STRANGER = """
import sys
from pathlib import Path

import numpy as np

folder = Path(sys.argv[1])
images = np.load(folder / "images.npy")
for file in sorted(folder.glob("*.stablehlo")):
    code = (folder / f"{file.name}.py").read_text(encoding="utf-8")
    exec(code, scope := {})
    for size in (1, 2, 5):
        np.save(folder / f"{file.stem}_{size}.npy", scope["run"](images[:size]))
assert not {"nfnets", "effnetv2", "resnet_rs", "flax"} & set(sys.modules)
"""


def test_stablehlo_of_every_kind_of_network(networks, logits, tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    for name, network_ in networks.items():
        path = tmp_path / f"{name}.stablehlo"
        write_stablehlo(network_, path)
        code = FORMATS["stablehlo"].loading(path)
        (tmp_path / f"{path.name}.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-P", "-c", STRANGER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, expected in logits.items():
        for size in (1, 2, 5):
            assert_close(np.load(tmp_path / f"{name}_{size}.npy"), expected[:size])


def test_one_file_serves_all_platforms(networks, tmp_path):
    write_stablehlo(networks["effnetv2_b0"], tmp_path / "file")
    exported = jax.export.deserialize(bytearray((tmp_path / "file").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[0].shape) == f"(batch, {SIZE}, {SIZE}, 3)"
    assert exported.in_avals[0].dtype == np.uint8


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_leaves_no_work_on_weights(name, networks):
    tested = networks[name]
    folded = fold_variables(tested.logits, tested.variables, tested.images, {})
    operations = [e.primitive.name for e in jax.make_jaxpr(folded)(tested.images).eqns]
    # Standardisation and BatchNorm take roots; only layer norms still do.
    assert operations.count("rsqrt") == (3 if name == "deit_ti" else 0)


@pytest.mark.parametrize("size", [7, 8])
def test_pooling_as_slices(size):
    x = jax.random.normal(jax.random.key(0), (2, size, size + 1, 3))
    pools = {
        "same": lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"),
        "padded": lambda x: nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (0, 1)]),
        "average": lambda x: avg_pool_same(x, 2, 2),
    }
    replacements = {
        "reduce_window_max": max_over_windows,
        "reduce_window_sum": sum_over_windows,
    }
    for pool in pools.values():
        sliced = fold_variables(lambda _, x, p=pool: p(x), (), x, replacements)
        np.testing.assert_allclose(sliced(x), pool(x), rtol=1e-6)
        assert "reduce_window" not in str(jax.make_jaxpr(sliced)(x))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")  # the converter's
def test_onnx_of_every_kind_of_network(name, networks, tmp_path):
    for package in FORMATS["onnx"].packages:
        pytest.importorskip(package)
    path = tmp_path / "file.onnx"
    write_onnx(networks[name], path)
    check(networks[name], FORMATS["onnx"].loading(path))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with a moving average, for images of 8 pixels."""
    path = tmp_path_factory.mktemp("run") / "run"
    recipe = with_changes(RECIPE, eval__image_size=8, data__source="synthetic")
    save_run(path, {30: 0.5}, recipe)
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_the_program_exports_a_run(name, run, tmp_path):
    if any(importlib.util.find_spec(p) is None for p in FORMATS[name].packages):
        pytest.skip(f"export to {name} needs a package that is not installed")
    out = tmp_path / f"tiny{FORMATS[name].suffix}"
    status, output, errors = run_script(
        "export.py",
        f"--workdir={run}",
        f"--format={name}",
        f"--out={out}",
        cache=tmp_path / "cache",
    )
    assert status == 0, errors
    assert "moving average" in output
    facts = json.loads((tmp_path / f"{out.name}.json").read_text(encoding="utf-8"))
    assert facts["input"]["shape"] == ["batch", 8, 8, 3]
    assert facts["output"]["shape"] == ["batch", CLASSES]
    assert len(facts["classes"]) == CLASSES
    assert facts["normalization_inside"]["mean"] == pytest.approx(
        [255 * 0.485, 255 * 0.456, 255 * 0.406]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["cache", out.name, f"{out.name}.json"]
    )
    if name == "stablehlo":  # others would need their packages here
        found = jax.export.deserialize(bytearray(out.read_bytes())).call(PIXELS)
        model = RECIPE.create_model()
        average = network(31)
        assert_close(
            np.asarray(found),
            np.asarray(
                model.apply(average, normalize(jnp.asarray(PIXELS)), train=False)
            ),
        )


def made_weights() -> tested_weights.Tested:
    recipe = with_changes(RECIPE, eval__image_size=8, data__source="synthetic")
    facts = {"model": recipe.model, "weights": "made"}
    by_prefix = {"eval": network(1), "eval_ema": network(2)}
    return tested_weights.Tested(recipe, by_prefix, facts)


def test_an_export_that_differs_is_kept_aside(monkeypatch, tmp_path):
    right = FORMATS["stablehlo"]

    def write_other(asked: Network, path: Path) -> None:
        other = jax.tree.map(lambda leaf: 1.001 * leaf, asked.variables)
        right.write(Network(asked.model, other, 8, "imagenet"), path)

    wrong = right._replace(write=write_other)
    monkeypatch.setattr(exporting, "find_format", lambda name: wrong)
    out = tmp_path / "a.stablehlo"
    with pytest.raises(ExportError, match=r"logits differ .* \(see "):
        export_weights(made_weights(), "stablehlo", out, raw=False, log=quiet)
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("a.stablehlo.unchecked-")
    assert (folder / "a.stablehlo").exists()


def test_a_network_whose_logits_are_all_zero(tmp_path):
    """As several families are before they are trained."""
    made = made_weights()
    params = dict(made.by_prefix["eval"]["params"])
    params["head"] = jax.tree.map(np.zeros_like, params["head"])
    silent = dataclasses.replace(made, by_prefix={"eval": {"params": params}})
    said: list[str] = []
    out = tmp_path / "a.stablehlo"
    export_weights(silent, "stablehlo", out, raw=False, log=said.append)
    assert "by up to 0.00e+00, 0.0e+00 of the largest" in str(said)
    assert json.loads((tmp_path / "a.stablehlo.json").read_text())["checked"] == {
        "batch_sizes": [1, 3],
        "difference": 0.0,
        "largest": 0.0,
    }


def test_an_export_that_fails_leaves_nothing(monkeypatch, tmp_path):
    def fail(asked: Network, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    broken = FORMATS["stablehlo"]._replace(write=fail)
    monkeypatch.setattr(exporting, "find_format", lambda name: broken)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        export_weights(
            made_weights(), "stablehlo", tmp_path / "a", raw=False, log=quiet
        )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_does_not_run_is_refused(networks):
    with pytest.raises(ExportError, match=r"does not run \(status 1\): ValueError: no"):
        check(networks["deit_ti"], "raise ValueError('no')\n")
    code = "import nfnets\ndef run(images): return images"
    with pytest.raises(ExportError, match=r"imports .*nfnets"):
        check(networks["deit_ti"], code)


def test_targets_are_checked_first(monkeypatch, tmp_path):
    (tmp_path / "there.stablehlo").touch()
    for name, out, message in [
        ("onxx", "a.onnx", "unknown format 'onxx'; did you mean onnx"),
        ("stablehlo", "a.onnx", "should end in .stablehlo"),
        ("stablehlo", "gs://b/a.stablehlo", "is not on this machine"),
        ("stablehlo", str(tmp_path / "there.stablehlo"), "exists; remove it, or give"),
    ]:
        with pytest.raises(UserError, match=message):
            check_target(name, out)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"jax2onnx.* pip install 'nfnets-flax\[onnx\]'"
    ):
        check_target("onnx", "a.onnx")


def test_networks_that_fit_no_file_are_refused(monkeypatch):
    monkeypatch.setattr("nfnets.export.network._MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"nfnet_f0 has .* GB of weights"):
        network_of(made_weights(), "eval")
