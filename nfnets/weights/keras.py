"""Parameters under the names of keras.applications, to our variables and back.

An array's name is ``LAYER/VARIABLE``, such as ``block1a_project_conv/kernel``.
Kernels are HWIO on both sides, but depthwise ones [kh, kw, C, 1], and squeeze-excite
layers are 1x1 convolutions there and matrices here.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.registry import create_model, get_variant
from nfnets.weights.matching import check_names
from nfnets.weights.module_names import ModuleNames, Path, pair_modules


class KerasArray(NamedTuple):
    """A variable of a Keras model, and where we keep it."""

    name: str
    shape: tuple[int, ...]
    path: Path
    our_shape: tuple[int, ...]
    # Files of Keras 3 number the layers of a class, and the variables of a layer.
    numbered: str  # such as "batch_normalization_1/0"


def _block(stage: int, block: int) -> str:
    """Its blocks are counted from 1 and lettered: "block2a_" is the second's first."""
    return f"block{stage + 1}{chr(ord('a') + block)}_"


def _names(depthwise: str) -> ModuleNames:
    """The two versions' names differ in one layer."""
    squeeze = {
        "squeeze_excite/reduce": "se_reduce",
        "squeeze_excite/expand": "se_expand",
    }
    kind = {
        "expand_conv": "expand_conv",
        "expand_bn": "expand_bn",
        "depthwise_conv": depthwise,
        "depthwise_bn": "bn",
        **squeeze,
        "project_conv": "project_conv",
        "project_bn": "project_bn",
    }
    return ModuleNames(
        before={"stem_conv": "stem_conv", "stem_bn": "stem_bn"},
        block=_block,
        kinds=(kind,),
        after={"final_conv": "top_conv", "final_bn": "top_bn", "head": "predictions"},
    )


# Our names of what keras.applications has.
_V1 = frozenset(f"effnet_b{i}" for i in range(8))
_V2 = frozenset(f"effnetv2_{v}" for v in ("b0", "b1", "b2", "b3", "s", "m", "l"))

# Our leaves to Keras's, in its order.
_LEAVES = {
    "kernel": "kernel",
    "scale": "gamma",
    "bias": "bias",  # beta in BatchNorm
    "mean": "moving_mean",
    "var": "moving_variance",
}
_HEAD = ("predictions/bias", "dense/1")
# Input normalisation inside a model: not ours, see docs/weights.md.
_INPUT = re.compile(r"(normalization|rescaling)(_\d+)?/.*")


def convert_keras(
    model_name: str,
    arrays: Mapping[str, np.ndarray],
    *,
    overrides: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """Our variables from those of a model of keras.applications, classifier included.

    Args:
      model_name: EfficientNet B0 to B7 or EfficientNetV2 B0 to B3, S, M, L, under our
        name; the classes are counted in the arrays.
      arrays: ``LAYER/VARIABLE`` to array; all of them, nothing else but the layers
        that normalise the input, which are left out. Names with ":0" at the end, as
        TensorFlow has them, are the same.
      overrides: fields of the model's row that it was trained with.

    Returns:
      ``{"params": ..., "batch_stats": ...}``; float32 numpy arrays.
    """
    arrays = {_plain_name(name): array for name, array in arrays.items()}
    arrays = {n: a for n, a in arrays.items() if not _INPUT.fullmatch(n)}
    bias = next((arrays[name] for name in _HEAD if name in arrays), None)
    if bias is None:
        raise UserError(
            f"not the weights of {model_name}: {_HEAD[0]!r} is missing; take a file "
            "with the classifier, not one called notop"
        )
    num_classes = max(1, int(np.size(bias)))
    wanted = keras_shapes(model_name, num_classes, overrides=overrides)
    known = {array.numbered: array.name for array in wanted}
    found = {known.get(name, name): array for name, array in arrays.items()}
    check_names(model_name, {array.name: array.shape for array in wanted}, found)
    flat = {
        array.path: np.asarray(found[array.name], np.float32).reshape(array.our_shape)
        for array in wanted
    }
    return traverse_util.unflatten_dict(flat)


def keras_shapes(
    model_name: str, num_classes: int = 1000, *, overrides: Mapping[str, Any] = {}
) -> list[KerasArray]:
    """Every variable of a model, in Keras's order."""
    names = names_of(model_name)
    model = create_model(model_name, num_classes=num_classes, **overrides)
    abstract = abstract_variables(model, get_variant(model_name).train_size)
    return list(_keras_arrays(names, traverse_util.flatten_dict(abstract)))


def export_keras(
    model_name: str, variables: Mapping[str, Any]
) -> list[tuple[KerasArray, np.ndarray]]:
    """Keras's variables from ours, in its order: the inverse of `convert_keras`.

    A model of keras.applications has more of them where it normalises its input.
    """
    flat = traverse_util.flatten_dict(dict(variables))
    return [
        (array, np.asarray(flat[array.path], np.float32).reshape(array.shape))
        for array in _keras_arrays(names_of(model_name), flat)
    ]


def is_keras(names: Iterable[str]) -> bool:
    """Whether names are those of layers of keras.applications, or numbers of such."""
    known = ("stem_bn/gamma", "batch_normalization/0")
    return any(_plain_name(name) in known for name in names)


def _plain_name(name: str) -> str:
    """Without what older versions write: ":0", and another name of one kernel."""
    name = name.removesuffix(":0")
    if name.endswith("/depthwise_kernel"):
        return name.removesuffix("depthwise_kernel") + "kernel"
    return name


def names_of(model_name: str) -> ModuleNames:
    """Keras's names of a model; raises UserError where it has none."""
    get_variant(model_name)  # raises for an unknown name
    if model_name in _V1:
        return _names("dwconv")
    if model_name in _V2:
        return _names("dwconv2")
    raise UserError(
        f"{model_name} is not one of keras.applications; of its networks ours are "
        "EfficientNet B0 to B7 and EfficientNetV2 B0 to B3, S, M and L"
    )


def _keras_arrays(names: ModuleNames, flat: Mapping[Path, Any]) -> Iterator[KerasArray]:
    """Keras's variables for our flattened ones, in its order."""
    layers: collections.Counter[str] = collections.Counter()  # of each class
    for layer, leaves in pair_modules(names, flat):
        layer_class = _class_of(leaves)
        count = layers[layer_class]
        layers[layer_class] += 1
        numbered = f"{layer_class}_{count}" if count else layer_class
        ours = [leaf for leaf in _LEAVES if leaf in leaves]
        for index, leaf in enumerate(ours):
            path = leaves[leaf]
            is_beta = leaf == "bias" and "scale" in leaves
            theirs = "beta" if is_beta else _LEAVES[leaf]
            our_shape = tuple(flat[path].shape)
            yield KerasArray(
                f"{layer}/{theirs}",
                _keras_shape(path, our_shape),
                path,
                our_shape,
                f"{numbered}/{index}",
            )


def _class_of(leaves: Mapping[str, Path]) -> str:
    """Keras's class of the layer that has our leaves, in snake case."""
    module = next(iter(leaves.values()))[-2]
    if "scale" in leaves:
        return "batch_normalization"
    return {"depthwise_conv": "depthwise_conv2d", "head": "dense"}.get(module, "conv2d")


def _keras_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape there of an array of ours; the elements have the same order."""
    *_, module, leaf = path
    if leaf != "kernel":
        return shape
    if module == "depthwise_conv":  # [kh, kw, 1, C] -> [kh, kw, C, 1]
        return (*shape[:2], shape[3], shape[2])
    if len(shape) == 2 and module != "head":  # squeeze-excite
        return (1, 1, *shape)
    return shape
