"""Weights of keras.applications: names, values, every layout of file, and bad files."""

from __future__ import annotations

import functools
import io
import itertools
import sys
import zipfile

import jax
import numpy as np
import pytest
from golden_fill import golden_images, keras_arrays

from nfnets.errors import UserError
from nfnets.registry import create_model
from nfnets.weights import convert_keras, load_weights
from nfnets.weights.hdf5 import read_hdf5
from nfnets.weights.keras import keras_shapes

NAME = "effnetv2_b0"
# Both kinds of fused block, and two MBConv.
OVERRIDES = {
    "stages": (
        "r1_k3_s1_e1_i8_o8_c1",
        "r1_k3_s2_e2_i8_o16_c1",
        "r2_k3_s1_e2_i16_o16_se0.25",
    ),
    "head_channels": 24,
}


def shapes_of(name, **options):
    return {array.name: array.shape for array in keras_shapes(name, **options)}


@pytest.fixture(scope="module")
def arrays():
    """Of a small network with 10 classes."""
    return keras_arrays(shapes_of(NAME, num_classes=10, overrides=OVERRIDES))


@pytest.fixture(scope="module")
def variables(arrays):
    return convert_keras(NAME, arrays, overrides=OVERRIDES)


@pytest.mark.parametrize("name", ["effnetv2_b0", "effnet_b0"])
def test_names_shapes_and_order_equal_keras(name, golden):
    found = [[array.name, list(array.shape)] for array in keras_shapes(name)]
    assert found == golden("effnetv2_keras")[name]["shapes"]


@pytest.mark.parametrize("name", ["effnetv2_b0", "effnetv2_s", "effnet_b0"])
def test_logits_equal_keras(name, golden):
    """At even sizes, where TensorFlow's SAME padding is one-sided."""
    expected = golden("effnetv2_keras")[name]
    variables = convert_keras(name, keras_arrays(shapes_of(name), expected["gain"]))
    model = create_model(name, num_classes=1000)
    forward = jax.jit(functools.partial(model.apply, train=False))
    for size, values in expected["eval"].items():
        logits = np.asarray(forward(variables, golden_images(int(size))))
        off = np.abs(logits[:, :16] - np.array(values["logits16"])).max()
        assert off < 1e-4 * values["std"]
        assert logits.std() == pytest.approx(values["std"], rel=1e-4)


def test_other_spellings_of_names_are_understood(arrays, variables):
    """TensorFlow's ":0", and what Keras 2 called the kernel of a depthwise layer."""
    old = {}
    for name, array in arrays.items():
        is_depthwise = name.endswith("dwconv2/kernel")
        leaf = "depthwise_kernel" if is_depthwise else name.split("/")[1]
        old[f"{name.split('/')[0]}/{leaf}:0"] = array
    found = convert_keras(NAME, old, overrides=OVERRIDES)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_input_normalisation_is_left_out(arrays, variables):
    more = arrays | {"normalization_1/mean": np.ones(3), "normalization/0": np.ones(3)}
    found = convert_keras(NAME, more, overrides=OVERRIDES)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_other_arrays_are_refused_by_name(arrays):
    def refusal(name, changed):
        with pytest.raises(UserError) as error:
            convert_keras(name, changed, overrides=OVERRIDES)
        assert "\n" not in str(error.value)
        return str(error.value)

    headless = {n: a for n, a in arrays.items() if "predictions" not in n}
    assert "take a file with the classifier" in refusal(NAME, headless)
    missing = {n: a for n, a in arrays.items() if n != "top_bn/gamma"}
    assert "1 missing: top_bn/gamma" in refusal(NAME, missing)
    more = arrays | {"block9a_bn/gamma": np.ones(3)}
    assert "1 unexpected: block9a_bn/gamma" in refusal(NAME, more)
    turned = arrays | {"stem_conv/kernel": arrays["stem_conv/kernel"].T}
    assert "(8, 3, 3, 3) instead of (3, 3, 3, 8)" in refusal(NAME, turned)
    for name in ("effnet_b8", "effnetv2_xl", "nf_resnet50"):
        with pytest.raises(UserError, match=r"is not one of keras\.applications"):
            convert_keras(name, arrays)


# Files. Keras is not needed to write what it writes.


@pytest.fixture(scope="module")
def h5py():
    return pytest.importorskip("h5py")


def grouped(arrays):
    """By layer: {layer: {variable: array}}."""
    layers = {}
    for name, array in arrays.items():
        layer, variable = name.split("/")
        layers.setdefault(layer, {})[variable] = array
    return layers


def write_legacy(root, arrays, *, suffix=":0", nested=True, **options):
    """As Keras 1 and 2 do (suffix and nested), and the first versions of Keras 3."""
    for layer, leaves in grouped(arrays).items():
        group = root.create_group(layer)
        names = [f"{layer}/{n}{suffix}" if nested else n for n in leaves]
        group.attrs["weight_names"] = [n.encode() for n in names]
        for name, array in zip(names, leaves.values(), strict=True):
            group.create_dataset(name, data=array, **options)
    root.create_group("avg_pool").attrs["weight_names"] = np.zeros(0)


CLASSES = {"bn": "batch_normalization", "predictions": "dense"}


def write_numbered(root, arrays, *, named, group="layers"):
    """As Keras 3 does; in its first versions without the layers' names."""
    counts = {}
    for layer, leaves in grouped(arrays).items():
        ending = layer.rpartition("_")[2]
        kind = CLASSES.get(ending, "conv2d")
        kind = "depthwise_conv2d" if ending == "dwconv2" else kind
        number = counts[kind] = counts.get(kind, -1) + 1
        path = f"{group}/{kind}_{number}" if number else f"{group}/{kind}"
        variables = root.create_group(f"{path}/vars")
        if named:
            variables.attrs["name"] = layer
        for index, array in enumerate(leaves.values()):
            variables[str(index)] = array
    root.create_group(f"{group}/activation/vars")


LAYOUTS = {
    "keras 2": write_legacy,
    "keras 2, compressed": functools.partial(write_legacy, compression="gzip"),
    "keras 3.0, h5": functools.partial(write_legacy, suffix="", nested=False),
    "whole model": lambda root, arrays: write_legacy(
        root.create_group("model_weights"), arrays
    ),
    "keras 3.0": functools.partial(write_numbered, named=False),
    "keras 3": functools.partial(write_numbered, named=True),
    "keras 2, new format": functools.partial(
        write_numbered, named=False, group="_layer_checkpoint_dependencies"
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_file_loads(layout, arrays, variables, tmp_path, h5py):
    path = tmp_path / "weights"
    with h5py.File(path, "w") as file:
        LAYOUTS[layout](file, arrays)
    found = load_weights(NAME, path, overrides=OVERRIDES)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def keras_archive(path, weights):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", weights)


def hdf5_bytes(h5py, write):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write(file)
    return content.getvalue()


def test_an_archive_of_keras_loads(arrays, variables, tmp_path, h5py):
    path = tmp_path / "model.keras"
    write = functools.partial(write_numbered, arrays=arrays, named=True)
    keras_archive(path, hdf5_bytes(h5py, write))
    found = load_weights(NAME, path, overrides=OVERRIDES)
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    keras_archive(path, b"no weights")
    assert "cannot read" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
    assert "model.weights.h5" in refusal(path)


def refusal(path) -> str:
    """The message of the UserError for a file, which is one line."""
    with pytest.raises(UserError) as error:
        load_weights(NAME, path, overrides=OVERRIDES)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def with_kernel(h5py, make):
    """A file of one layer, whose only variable ``make(group)`` stores as "kernel"."""
    return hdf5_bytes(h5py, lambda file: make(file.create_group("stem_conv")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda h5, g: g.__setitem__("kernel", h5.ExternalLink("o.h5", "/a")),
            "a link to elsewhere",
        ),
        (lambda h5, g: g.__setitem__("kernel", h5.SoftLink("/a")), "a link to"),
        (lambda h5, g: g.__setitem__("kernel", np.dtype("f4")), "is no array"),
        (lambda h5, g: None, "'predictions/bias' is missing"),
        (
            lambda h5, g: g.create_dataset(
                "kernel", (4,), "f4", external=[("/etc/passwd", 0, 16)]
            ),
            "in another file",
        ),
        (
            lambda h5, g: g.create_dataset(
                "kernel", (2**20, 2**20), "f4", chunks=(1, 2**10)
            ),
            "take more than",
        ),
        (
            lambda h5, g: g.create_dataset(
                "kernel", data=["a"], dtype=h5.string_dtype()
            ),
            "no array of numbers",
        ),
        (
            lambda h5, g: g.create_dataset(
                "kernel", data=np.ones(4), compression="lzf"
            ),
            "compressed in an unusual way",
        ),
        (
            lambda h5, g: g.create_dataset("kernel", dtype="f4", data=h5.Empty("f4")),
            "no array of numbers",
        ),
    ],
)
def test_nothing_is_followed_out_of_a_file_nor_believed(make, message, tmp_path, h5py):
    path = tmp_path / "weights.h5"
    path.write_bytes(with_kernel(h5py, functools.partial(make, h5py)))
    assert message in refusal(path)


def test_virtual_arrays_are_refused(tmp_path, h5py):
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", shape=(4,))
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        file.create_group("stem_conv").create_virtual_dataset("kernel", layout)
    assert "in another file" in refusal(path)


def test_groups_that_hold_themselves_end(tmp_path, h5py):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["a"] = group
    assert "groups are too deep" in refusal(path)
    with h5py.File(path, "w") as file:  # ten ways from each of seven to the next
        groups = [file.create_group(f"g{i}") for i in range(7)]
        for before, after in itertools.pairwise(groups):
            for name in "abcdefghij":
                before[name] = after
    assert "more than 20000 groups and arrays" in refusal(path)


def test_damaged_files_are_said_to_be(arrays, tmp_path, h5py):
    """Cut, and with single bytes changed: an answer in one line, or other numbers."""
    path = tmp_path / "weights.h5"
    content = hdf5_bytes(h5py, functools.partial(write_legacy, arrays=arrays))
    for length in (8, 100, 2000, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert "cannot read" in refusal(path)
    generator = np.random.default_rng(0)
    messages = []
    for position in generator.integers(8, 4000, size=100):
        changed = bytearray(content)
        changed[position] ^= 1 << generator.integers(8)
        path.write_bytes(changed)
        try:
            read_hdf5(path, 10**6)
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 5
    assert not [message for message in messages if "\n" in message]


def test_an_empty_file_of_hdf5_has_no_weights(tmp_path, h5py):
    path = tmp_path / "weights.h5"
    path.write_bytes(hdf5_bytes(h5py, lambda file: None))
    assert "'predictions/bias' is missing" in refusal(path)


def test_without_h5py_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = tmp_path / "weights.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "run: pip install 'nfnets-flax[keras]'" in refusal(path)
