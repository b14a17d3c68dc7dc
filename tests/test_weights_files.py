"""Files of weights: every form in, ours out, and one line for what is neither."""

from __future__ import annotations

import hashlib
import json
import os
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from golden_fill import golden_arrays, golden_images
from helpers import TINY
from official_pickle import F0_BYTES, official_pickle

from nfnets import nfnet, registry
from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.registry import create_model
from nfnets.weights import export_haiku, load_weights, save_weights

NAME = "nfnet_tiny"


@pytest.fixture(autouse=True)
def tiny_model(monkeypatch):
    """Makes the tiny network one of the models, so that it has official names."""
    row = registry.get_variant("nfnet_f0", **TINY)
    monkeypatch.setitem(nfnet.VARIANTS, NAME, row)


@pytest.fixture
def variables():
    """Of the tiny network with 10 classes, all values different."""
    model = create_model(NAME, num_classes=10)
    leaves, tree = jax.tree.flatten(abstract_variables(model, 32))
    generator = np.random.default_rng(0)
    noise = [generator.normal(size=x.shape).astype(np.float32) for x in leaves]
    return jax.tree.unflatten(tree, noise)


def assert_same_bits(found, expected):
    found, expected = (
        traverse_util.flatten_dict(t, sep="/") for t in (found, expected)
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        assert found[name].shape == value.shape
        assert found[name].tobytes() == np.asarray(value, np.float32).tobytes(), name


def refusal(call, *args, **kwargs) -> str:
    """The message of the UserError that a call raises, which is one line."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_of_the_official_form_gives_the_official_logits(tmp_path, golden):
    """NFNet-F0 as the official pickle, of the official length, to golden logits."""
    arrays = golden_arrays(golden("nfnet_param_lists")["nfnet_f0"])
    file = tmp_path / "F0_haiku.npz"
    file.write_bytes(official_pickle(arrays))
    assert file.stat().st_size == F0_BYTES
    loaded = load_weights("nfnet_f0", file)
    file.unlink()

    model = create_model("nfnet_f0", num_classes=1000)
    forward = jax.jit(lambda v, images: model.apply(v, images, train=False))
    logits = np.asarray(forward(loaded, golden_images(64)))
    expected = golden("nfnet_models")["nfnet_f0"]["64"]
    np.testing.assert_allclose(logits[:, :16], expected["logits16"], rtol=0, atol=1e-5)
    assert logits.argmax(1).tolist() == expected["argmax"]


# --- other forms -----------------------------------------------------------------


def test_official_names_are_read_from_every_form(tmp_path, variables):
    arrays = export_haiku(NAME, variables)
    (tmp_path / "pickle.safetensors").write_bytes(official_pickle(arrays))
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "small", **arrays)
    (tmp_path / "small.npz").rename(tmp_path / "no_suffix")
    safetensors.numpy.save_file(arrays, tmp_path / "st.npz")
    for name in ("pickle.safetensors", "plain.npz", "no_suffix", "st.npz"):
        assert_same_bits(load_weights(NAME, tmp_path / name), variables)
        assert_same_bits(load_weights(NAME, str(tmp_path / name)), variables)


def test_our_names_are_read_from_npz(tmp_path, variables):
    np.savez(tmp_path / "a.npz", **traverse_util.flatten_dict(variables, sep="/"))
    assert_same_bits(load_weights(NAME, tmp_path / "a.npz"), variables)


def test_other_dtypes_become_float32(tmp_path, variables):
    flat = traverse_util.flatten_dict(variables, sep="/")
    for dtype in (np.float64, np.float16, jnp.bfloat16):
        arrays = {name: value.astype(dtype) for name, value in flat.items()}
        safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
        expected = jax.tree.map(lambda x, d=dtype: x.astype(d), variables)
        assert_same_bits(load_weights(NAME, tmp_path / "a.safetensors"), expected)


# --- our form --------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, variables):
    """The path of the tiny network's weights in our form."""
    path = tmp_path / "tiny.safetensors"
    save_weights(NAME, variables, path, {"top1": 0.5, "source": "noise"})
    return path


def test_round_trip(saved, variables):
    loaded = load_weights(NAME, saved)
    assert_same_bits(loaded, variables)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)


def test_description(saved, variables):
    said = json.loads(saved.with_suffix(".json").read_text("utf-8"))
    sizes = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
    assert said == {
        "format_version": 1,
        "model": NAME,
        "model_overrides": {},
        "num_classes": 10,
        "parameters": sum(sizes),
        "sha256": hashlib.sha256(saved.read_bytes()).hexdigest(),
        "metadata": {"top1": 0.5, "source": "noise"},
    }
    names = safetensors.numpy.load_file(saved)
    assert "params/stage1_block0/conv1b/kernel" in names


def test_arrays_that_are_not_contiguous_keep_their_elements(tmp_path, variables):
    """The package writes the elements of such arrays in the wrong order."""
    scrambled = jax.tree.map(lambda x: np.array(x.T, order="C").T, variables)
    assert not scrambled["params"]["head"]["kernel"].flags.c_contiguous
    strided = jax.tree.map(lambda x: np.repeat(x[..., None], 2, -1)[..., 0], variables)
    for number, tree in enumerate((scrambled, strided)):
        path = tmp_path / f"{number}.safetensors"
        save_weights(NAME, tree, path)
        assert_same_bits(load_weights(NAME, path), variables)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_jax_arrays_are_stored_as_float32(tmp_path, variables, dtype):
    tree = jax.tree.map(lambda x: jnp.asarray(x, dtype), variables)
    save_weights(NAME, tree, tmp_path / "a.safetensors")
    assert_same_bits(load_weights(NAME, tmp_path / "a.safetensors"), tree)
    (first, *_) = safetensors.numpy.load_file(tmp_path / "a.safetensors").values()
    assert first.dtype == np.float32


def test_a_changed_network_needs_its_overrides(tmp_path, variables):
    path = tmp_path / "a.safetensors"
    save_weights("nfnet_f0", variables, path, overrides=TINY)
    said = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert said["model_overrides"]["widths"] == [16, 32]
    assert_same_bits(load_weights("nfnet_f0", path, overrides=TINY), variables)
    message = refusal(load_weights, "nfnet_f0", path)
    assert f"{path}: not the weights of nfnet_f0: " in message
    assert "missing: params/stage2_block1" in message


def test_the_files_can_be_read_by_others(saved):
    mode = stat.S_IMODE(saved.stat().st_mode)
    other = saved.with_name("other")
    other.touch()
    assert mode == stat.S_IMODE(other.stat().st_mode)


def test_a_file_of_another_model_is_refused(saved):
    message = refusal(load_weights, "nfnet_f0", saved)
    assert "holds the weights of 'nfnet_tiny', not of nfnet_f0" in message


def test_a_changed_file_is_refused(saved):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    assert "is not the file that tiny.json describes" in refusal(
        load_weights, NAME, saved
    )
    saved.with_suffix(".json").unlink()
    load_weights(NAME, saved)  # without a description there is nothing to check


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 10**5, b'{"format_version": 1}', b"null"],
)
def test_a_damaged_description_is_named(saved, content):
    saved.with_suffix(".json").write_bytes(content)
    message = refusal(load_weights, NAME, saved)
    assert "tiny.json does not describe weights" in message
    assert len(message) < 500


def test_a_description_of_a_later_version_is_refused(saved):
    path = saved.with_suffix(".json")
    said = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(said | {"format_version": 2}), encoding="utf-8")
    assert "format version 2, this program reads 1" in refusal(
        load_weights, NAME, saved
    )


def test_a_failed_write_leaves_nothing_half(saved, variables, monkeypatch):
    """The second of the two files cannot be put in place."""
    other = jax.tree.map(lambda x: x + 1, variables)
    replace, calls = os.replace, []

    def fail_at_the_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_second)
    message = refusal(save_weights, NAME, other, saved)
    assert message == f"cannot write {saved}: No space left on device"
    monkeypatch.undo()
    monkeypatch.setitem(nfnet.VARIANTS, NAME, registry.get_variant("nfnet_f0", **TINY))
    assert [path.name for path in saved.parent.iterdir()] == ["tiny.safetensors"]
    assert_same_bits(load_weights(NAME, saved), other)


def test_a_full_disk_keeps_the_old_files(saved, variables, monkeypatch):
    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    other = jax.tree.map(lambda x: x + 1, variables)
    assert "No space left" in refusal(save_weights, NAME, other, saved)
    assert_same_bits(load_weights(NAME, saved), variables)


def test_what_cannot_be_saved(tmp_path, variables):
    path = tmp_path / "a.safetensors"
    assert "should end in .safetensors" in refusal(
        save_weights, NAME, variables, tmp_path / "a.npz"
    )
    nowhere = tmp_path / "nowhere" / "a.safetensors"
    assert f"cannot write {nowhere}: No such file" in refusal(
        save_weights, NAME, variables, nowhere
    )
    for value in (float("nan"), [1], None):
        assert "should be a string or a number" in refusal(
            save_weights, NAME, variables, path, {"top1": value}
        )
    doubles = jax.tree.map(lambda x: x.astype(np.float64), variables)
    assert "is float64, it should be float32" in refusal(
        save_weights, NAME, doubles, path
    )
    params = dict(variables["params"])
    params["final"] = params.pop("final_conv")
    message = refusal(save_weights, NAME, {"params": params}, path)
    assert "3 missing: params/final_conv/bias, " in message
    assert "3 unexpected: params/final/bias, " in message
    headless = {"params": {"stem_conv0": variables["params"]["stem_conv0"]}}
    assert "params/head/bias is missing" in refusal(save_weights, NAME, headless, path)
    assert not list(tmp_path.iterdir())
