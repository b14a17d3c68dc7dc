"""Parameters under the names of timm's state dicts, to our variables and back.

timm (``pytorch-image-models``) keeps kernels as [O, I, kh, kw] and matrices as
[out, in]. Its squeeze-excite layers are 1x1 convolutions, ours are matrices.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.registry import create_model, get_variant
from nfnets.weights.matching import check_names
from nfnets.weights.module_names import ModuleNames, Path, pair_modules
from nfnets.weights.timm_regnet_vit import REGNET, VIT
from nfnets.weights.timm_resnets import RESNETS


class TimmArray(NamedTuple):
    """An array of timm's state dict, and where we keep it (None: nowhere)."""

    name: str
    shape: tuple[int, ...]
    path: Path | None
    our_shape: tuple[int, ...]


_SE = {
    "squeeze_excite/reduce": "se.conv_reduce",
    "squeeze_excite/expand": "se.conv_expand",
}
_EFFICIENTNET = ModuleNames(
    before={"stem_conv": "conv_stem", "stem_bn": "bn1"},
    block=lambda stage, block: f"blocks.{stage}.{block}.",
    kinds=(
        # Fused with expansion 1 ("cn"), for which timm has no SE.
        {**_SE, "project_conv": "conv", "project_bn": "bn1"},
        # Fused ("er").
        {
            "expand_conv": "conv_exp",
            "expand_bn": "bn1",
            **_SE,
            "project_conv": "conv_pwl",
            "project_bn": "bn2",
        },
        # MBConv with expansion 1 ("ds").
        {
            "depthwise_conv": "conv_dw",
            "depthwise_bn": "bn1",
            **_SE,
            "project_conv": "conv_pw",
            "project_bn": "bn2",
        },
        # MBConv ("ir").
        {
            "expand_conv": "conv_pw",
            "expand_bn": "bn1",
            "depthwise_conv": "conv_dw",
            "depthwise_bn": "bn2",
            **_SE,
            "project_conv": "conv_pwl",
            "project_bn": "bn3",
        },
    ),
    after={"final_conv": "conv_head", "final_bn": "bn2", "head": "classifier"},
)

# Shell pattern of model names -> timm's names; the first that fits.
_NAMES: dict[str, ModuleNames] = {
    "effnetv2_*": _EFFICIENTNET,
    "effnet_b[0-8]": _EFFICIENTNET,
    "effnet_l2": _EFFICIENTNET,
    "regnety_*": REGNET,
    "deit_*": VIT,
    "vit_*": VIT,
    **RESNETS,
}

# Our leaves to timm's, in its order; a kernel and a BatchNorm's scale are its weights.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
}
# There these have a batch axis, and the token also one of its position.
_LEADING = {"cls_token": (1, 1), "pos_embed": (1,)}
_COUNTER = "num_batches_tracked"  # of BatchNorm; we have no use for it


def convert_timm(
    model_name: str,
    arrays: Mapping[str, np.ndarray],
    *,
    overrides: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """Our variables from a state dict of timm.

    Args:
      model_name: any model that timm has; the classes are counted in the arrays.
      arrays: timm's name to NumPy array; all of them, nothing else. The counters
        ``num_batches_tracked`` may be absent.
      overrides: fields of the model's row that it was trained with.

    Returns:
      ``{"params": ...}``, with BatchNorm also ``batch_stats``; float32 numpy arrays.
    """
    *_, classifier = names_of(model_name).after.values()
    bias = f"{classifier}.bias"
    if bias not in arrays:
        raise UserError(f"not the weights of {model_name}: {bias!r} is missing")
    num_classes = max(1, int(np.size(arrays[bias])))
    wanted = timm_shapes(model_name, num_classes, overrides=overrides)
    # The counters are scalars; some writers of files give them an axis.
    found = {n: a for n, a in arrays.items() if not n.endswith(f".{_COUNTER}")}
    kept = [array for array in wanted if array.path is not None]
    check_names(model_name, {array.name: array.shape for array in kept}, found)
    flat = {
        a.path: _from_torch(np.asarray(arrays[a.name], np.float32), a) for a in kept
    }
    return traverse_util.unflatten_dict(flat)


def export_timm(model_name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state dict of timm from our variables: the inverse of `convert_timm`.

    The counters ``num_batches_tracked`` come out as 0.
    """
    flat = traverse_util.flatten_dict(dict(variables))
    return {
        name: np.zeros((), np.int64)
        if path is None
        else _to_torch(path, np.asarray(flat[path], np.float32))
        for name, _, path, _ in _timm_arrays(names_of(model_name), flat)
    }


def timm_shapes(
    model_name: str, num_classes: int = 1000, *, overrides: Mapping[str, Any] = {}
) -> list[TimmArray]:
    """The state dict of a model, in timm's order: name and shape there, our path."""
    names = names_of(model_name)
    model = create_model(model_name, num_classes=num_classes, **overrides)
    row = get_variant(model_name, **overrides)
    abstract = abstract_variables(model, row.train_size)
    return list(_timm_arrays(names, traverse_util.flatten_dict(abstract)))


def is_timm(names: Collection[str]) -> bool:
    """Whether names are those of a state dict: dots between modules, no slashes."""
    return any(name.endswith((".weight", ".bias")) for name in names) and not any(
        "/" in name for name in names
    )


def names_of(model_name: str) -> ModuleNames:
    """The names that timm has for a model; raises UserError where it has none."""
    get_variant(model_name)  # raises for an unknown name
    for pattern, names in _NAMES.items():
        if fnmatch.fnmatchcase(model_name, pattern):
            return names
    if fnmatch.fnmatchcase(model_name, "nf*"):
        reason = (
            "its dm_nfnet_* and nf_* are other functions (the exact GELU, and an "
            "epsilon added to the variance of the weights)"
        )
    else:
        reason = "it has no such network"
    raise UserError(f"{model_name} has no weights of timm: {reason}")


def _timm_arrays(names: ModuleNames, flat: Mapping[Path, Any]) -> Iterator[TimmArray]:
    """Timm's arrays for our flattened variables, in its order."""
    for module, ours in pair_modules(names, flat):
        for leaf, their_leaf in _LEAVES.items():
            if leaf in ours:
                path, shape = ours[leaf], tuple(flat[ours[leaf]].shape)
                name = f"{module}.{their_leaf}" if module else their_leaf
                yield TimmArray(name, _torch_shape(path, shape), path, shape)
        if "mean" in ours:
            yield TimmArray(f"{module}.{_COUNTER}", (), None, ())


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape there of an array of ours."""
    if path[-1] != "kernel":
        return (*_LEADING.get(path[-1], ()), *shape)
    *window, inputs, outputs = shape
    if not window and "squeeze_excite" in path:
        window = [1, 1]
    return (outputs, inputs, *window)


def _to_torch(path: Path, array: np.ndarray) -> np.ndarray:
    shape = _torch_shape(path, array.shape)
    if path[-1] == "kernel":
        array = np.moveaxis(array, (-1, -2), (0, 1))
    return np.ascontiguousarray(array.reshape(shape))


def _from_torch(array: np.ndarray, wanted: TimmArray) -> np.ndarray:
    assert wanted.path is not None
    if wanted.path[-1] == "kernel":
        array = np.moveaxis(array, (0, 1), (-1, -2))
    return np.ascontiguousarray(array.reshape(wanted.our_shape))
