"""Parameters under the names of timm's state dicts, to our variables and back.

timm (``pytorch-image-models``) keeps kernels as [O, I, kh, kw] and matrices as
[out, in]. Its squeeze-excite layers are 1x1 convolutions, ours are matrices.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.registry import create_model, get_variant
from nfnets.weights.matching import check_names

Path = tuple[str, ...]  # collection, modules, parameter: ("params", "head", "kernel")
Modules = Mapping[
    str, str
]  # our submodule path, joined by "/", to timm's; in its order


@dataclasses.dataclass(frozen=True)
class TimmNames:
    """How timm names the modules of one family."""

    before: Modules  # the blocks
    block: str  # format of a block's prefix, of ``stage`` and ``block`` from 0
    # Of the modules inside a block: the first table that has all of a block's.
    kinds: tuple[Modules, ...]
    after: Modules


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
_EFFICIENTNET = TimmNames(
    before={"stem_conv": "conv_stem", "stem_bn": "bn1"},
    block="blocks.{stage}.{block}",
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
_NAMES: dict[str, TimmNames] = {"effnet*": _EFFICIENTNET}

_BLOCK = re.compile(r"stage(\d+)_block(\d+)")
# Our leaves to timm's, in its order; a kernel and a BatchNorm's scale are its weights.
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
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
    *_, classifier = _names_of(model_name).after.values()
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
        for name, _, path, _ in _timm_arrays(_names_of(model_name), flat)
    }


def timm_shapes(
    model_name: str, num_classes: int = 1000, *, overrides: Mapping[str, Any] = {}
) -> list[TimmArray]:
    """The state dict of a model, in timm's order: name and shape there, our path."""
    names = _names_of(model_name)
    model = create_model(model_name, num_classes=num_classes, **overrides)
    abstract = abstract_variables(model, get_variant(model_name).train_size)
    return list(_timm_arrays(names, traverse_util.flatten_dict(abstract)))


def is_timm(arrays: Mapping[str, Any]) -> bool:
    """Whether names are those of a state dict: dots between modules, no slashes."""
    return any(name.endswith((".weight", ".bias")) for name in arrays) and not any(
        "/" in name for name in arrays
    )


def _names_of(model_name: str) -> TimmNames:
    get_variant(model_name)  # raises for an unknown name
    for pattern, names in _NAMES.items():
        if fnmatch.fnmatchcase(model_name, pattern):
            return names
    raise UserError(f"{model_name} has no weights of timm that we can read")


def _timm_arrays(names: TimmNames, flat: Mapping[Path, Any]) -> Iterator[TimmArray]:
    """Timm's arrays for our flattened variables, in its order."""
    leaves: dict[str, dict[str, Path]] = {}  # by module, then by leaf
    for path in flat:
        leaves.setdefault("/".join(path[1:-1]), {})[path[-1]] = path
    for module, theirs in _modules(names, leaves):
        ours = leaves[module]
        for leaf, their_leaf in _LEAVES.items():
            if leaf in ours:
                path, shape = ours[leaf], tuple(flat[ours[leaf]].shape)
                name = f"{theirs}.{their_leaf}"
                yield TimmArray(name, _torch_shape(path, shape), path, shape)
        if "mean" in ours:
            yield TimmArray(f"{theirs}.{_COUNTER}", (), None, ())


def _modules(names: TimmNames, ours: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(our module path, timm's), in timm's order."""
    yield from names.before.items()
    blocks: dict[tuple[int, int], set[str]] = {}
    for module in ours:
        first, _, inner = module.partition("/")
        if match := _BLOCK.fullmatch(first):
            blocks.setdefault((int(match[1]), int(match[2])), set()).add(inner)
    for (stage, block), modules in sorted(blocks.items()):
        kind = next(kind for kind in names.kinds if modules <= kind.keys())
        prefix = names.block.format(stage=stage - 1, block=block)
        for inner, theirs in kind.items():
            if inner in modules:
                yield f"stage{stage}_block{block}/{inner}", f"{prefix}.{theirs}"
    yield from names.after.items()


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape there of an array of ours."""
    if path[-1] != "kernel":
        return shape
    *window, inputs, outputs = shape
    if not window and path[-2] != "head":  # squeeze-excite
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
