"""The formats: how a network is written in each, and how others load what is written.

Each takes batches of any size. StableHLO and SavedModel hold code for CPUs, NVIDIA GPUs
and TPUs: on CPUs convolutions have another form (``conv.choose_conv_form``), so both
forms are in the file, and which it is follows from the platform it is compiled for. In
the native form alone EfficientNetV2-S takes 2.2 times as long on a CPU. ONNX has the
native form, since its runtimes have convolutions of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import export

from nfnets.conv import BY_PLATFORM, NATIVE, force_conv_forms
from nfnets.errors import UserError, did_you_mean
from nfnets.export.fold import fold_variables
from nfnets.export.network import Network
from nfnets.export.slices import max_over_windows, sum_over_windows

PLATFORMS = ("cpu", "cuda", "tpu")
# Of ONNX; older runtimes read it than the newest one.
_OPSET = 21


class Format(NamedTuple):
    """One kind of file.

    Attributes:
      suffix: of the file; a folder has none.
      packages: that must be there to write and to check it, by their modules' names.
      extra: of ``pip install nfnets-flax[EXTRA]``, which brings them.
      write: writes a network to a path.
      load: Python that defines ``run``: images, uint8 [B, S, S, 3] -> logits; PATH
        stands for the path. It imports nothing of ours.
    """

    suffix: str
    packages: tuple[str, ...]
    extra: str
    write: Callable[[Network, Path], None]
    load: str

    def loading(self, path: Path) -> str:
        """``load`` of a path."""
        return self.load.replace("PATH", json.dumps(str(path)))


def write_stablehlo(network: Network, path: Path) -> None:
    """Writes what ``jax.export`` serializes."""
    path.write_bytes(_for_all_platforms(network).serialize())


def write_onnx(network: Network, path: Path) -> None:
    """Writes one ONNX file; its input is called images, its output logits."""
    import jax2onnx

    # The converter has no pooling for [N, H, W, C] and a batch of any size.
    replacements = {
        "reduce_window_max": max_over_windows,
        "reduce_window_sum": sum_over_windows,
    }
    with force_conv_forms(NATIVE):
        function = fold_variables(
            network.logits, network.variables, network.images, replacements
        )
    model = jax2onnx.to_onnx(
        function,
        [network.images],
        input_names=["images"],
        output_names=["logits"],
        opset=_OPSET,
    )
    path.write_bytes(model.SerializeToString())


def write_savedmodel(network: Network, path: Path) -> None:
    """Writes a folder; its signature is serving_default: images -> logits."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf
    from jax.experimental import jax2tf

    function = jax2tf.convert(
        _for_all_platforms(network).call,
        polymorphic_shapes=["batch, ..."],
        with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )
    side = network.image_size
    images = tf.TensorSpec([None, side, side, 3], tf.uint8, name="images")

    @tf.function(autograph=False, input_signature=[images])
    def serve(images: Any) -> Any:
        return {"logits": function(images)}

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def _for_all_platforms(network: Network) -> export.Exported:
    with force_conv_forms(BY_PLATFORM):
        function = fold_variables(network.logits, network.variables, network.images, {})
    return export.export(jax.jit(function), platforms=PLATFORMS)(network.images)


_LOAD_STABLEHLO = """\
import jax
from jax import export

with open(PATH, "rb") as file:
    run = jax.jit(export.deserialize(bytearray(file.read())).call)
"""
_LOAD_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession(PATH, providers=["CPUExecutionProvider"])


def run(images):
    return session.run(["logits"], {"images": images})[0]
"""
_LOAD_SAVEDMODEL = """\
import tensorflow as tf

model = tf.saved_model.load(PATH)


def run(images):
    return model.signatures["serving_default"](tf.constant(images))["logits"].numpy()
"""

FORMATS: Mapping[str, Format] = {
    "stablehlo": Format(
        ".stablehlo", ("flatbuffers",), "export", write_stablehlo, _LOAD_STABLEHLO
    ),
    "onnx": Format(
        ".onnx", ("jax2onnx", "onnxruntime"), "onnx", write_onnx, _LOAD_ONNX
    ),
    "savedmodel": Format("", ("tensorflow",), "tf", write_savedmodel, _LOAD_SAVEDMODEL),
}


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
      UserError: there is none, or a package that it needs is missing.
    """
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}; {did_you_mean(name, FORMATS)}")
    found = FORMATS[name]
    for package in found.packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"export to {name} needs {package}, which is not installed; run: "
                f"pip install 'nfnets-flax[{found.extra}]'"
            )
    return found
