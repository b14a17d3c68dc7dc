"""Parameters under the names of the official Haiku release, to our variables and back.

An official name is ``MODULE/PARAMETER``, e.g. ``NFNet/~/nf_block_3/~/conv1/w``.
Kernels are HWIO and matrices [in, out] on both sides, so only names differ; BatchNorm's
arrays are [1, 1, 1, C] there and [C] here, and its running averages have a state of
three arrays there, of which ours is the ``average``.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.registry import create_model, get_variant
from nfnets.weights.matching import check_names

Path = tuple[str, ...]  # collection, modules, parameter: ("params", "head", "kernel")


class OfficialArray(NamedTuple):
    """An array of the official release, and where we keep it (None: nowhere)."""

    name: str
    shape: tuple[int, ...]
    path: Path | None


@dataclasses.dataclass(frozen=True)
class HaikuNames:
    """How the official code of one family names what we name otherwise."""

    root: str  # the network's module
    block: str  # of the first residual block; later ones get _1, _2, ...
    # Our submodule path, joined by "/", to the official one under the same parent; what
    # is not here has our name, after the "~" of modules made in a constructor.
    modules: Mapping[str, str]
    plain: frozenset[str]  # ours whose bias is called "b": not weight-standardised


_SHARED = {
    "head": "~/linear",
    "squeeze_excite/reduce": "~/squeeze_excite/~/linear",
    "squeeze_excite/expand": "~/squeeze_excite/~/linear_1",
}
_RESNET = {**_SHARED, "stem_conv": "~/initial_conv"}
_BATCH_NORM = {**_RESNET, "stem_bn": "~/initial_bn", "shortcut_bn": "shortcut_bn"}
_DENSE = frozenset(_SHARED)
_SKIPINIT = frozenset({"head", "conv0", "conv1", "conv2", "conv_shortcut"})

# Shell pattern of model names -> their official names; the first that fits.
_NAMES: dict[str, HaikuNames] = {
    "nfnet_*": HaikuNames("NFNet", "nf_block", _SHARED, _DENSE),
    "nf_*resnet*": HaikuNames("NF_ResNet", "nf_res_block", _RESNET, _DENSE),
    "nf_regnet_*": HaikuNames("NF_RegNet", "nf_block", _RESNET, _DENSE),
    "dm_*_postact": HaikuNames("ResNet", "res_block_v1", _BATCH_NORM, _DENSE),
    "dm_*": HaikuNames("ResNet", "res_block_v2", _BATCH_NORM, _DENSE),
    "skipinit_*": HaikuNames("SkipInit_ResNet", "nf_res_block", _RESNET, _SKIPINIT),
    "fixup_*": HaikuNames("FixUp_ResNet", "res_block", _RESNET, _DENSE),
}

_BLOCK = re.compile(r"stage(\d+)_block(\d+)")
_NORM = re.compile(r"(\w+_)?bn\d?")  # our modules that are BatchNorm
_STATISTICS = {"mean": "mean_ema", "var": "var_ema"}

# Steps after which hidden / (1 - 0.9^steps) is ``hidden`` in float32.
_LONG_RUN = 1000


def convert_haiku(
    model_name: str,
    arrays: Mapping[str, np.ndarray],
    *,
    overrides: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """Our variables from official parameters and, with BatchNorm, official state.

    Args:
      model_name: any model with official weights; the classes are counted in arrays.
      arrays: official name ("module/parameter") to array; all of them, nothing else.
      overrides: fields of the model's row that it was trained with.

    Returns:
      ``{"params": ...}``, with BatchNorm also ``batch_stats``; float32 numpy arrays.
    """
    names = names_of(model_name)
    head = f"{names.root}/~/linear/b"
    if head not in arrays:
        raise UserError(f"not the weights of {model_name}: {head!r} is missing")
    num_classes = int(np.size(arrays[head]))
    wanted = official_shapes(model_name, num_classes, overrides=overrides)
    check_names(model_name, {n: s for n, s, _ in wanted}, arrays)
    flat = {}
    for name, shape, path in wanted:
        if path is not None:
            value = np.asarray(arrays[name], np.float32)
            flat[path] = value.reshape(shape[3:]) if _is_norm(path) else value
    return traverse_util.unflatten_dict(flat)


def export_haiku(
    model_name: str, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Official arrays from our variables: the inverse of `convert_haiku`.

    Running averages come out as those of a long run: ``hidden`` equals ``average``.
    """
    flat = traverse_util.flatten_dict(dict(variables))
    exported: dict[str, np.ndarray] = {}
    for name, shape, path in _official_arrays(names_of(model_name), flat):
        if path is not None:
            exported[name] = np.asarray(flat[path]).reshape(shape)
        elif name.endswith("/hidden"):
            exported[name] = exported[name.removesuffix("hidden") + "average"]
        else:
            exported[name] = np.asarray(_LONG_RUN, np.int32)
    return exported


def official_shapes(
    model_name: str, num_classes: int = 1000, *, overrides: Mapping[str, Any] = {}
) -> list[OfficialArray]:
    """Every array of a model: official name, shape there, our path."""
    model = create_model(model_name, num_classes=num_classes, **overrides)
    abstract = abstract_variables(model, get_variant(model_name).train_size)
    flat = traverse_util.flatten_dict(abstract)
    return list(_official_arrays(names_of(model_name), flat))


def is_haiku(names: Iterable[str]) -> bool:
    """Whether names are those of modules of the official networks."""
    roots = tuple(f"{each.root}/~/" for each in _NAMES.values())
    return any(name.startswith(roots) for name in names)


def names_of(model_name: str) -> HaikuNames:
    """The official names of a model; raises UserError where it has none."""
    get_variant(model_name)  # raises for an unknown name
    for pattern, names in _NAMES.items():
        if fnmatch.fnmatchcase(model_name, pattern):
            return names
    raise UserError(
        f"{model_name} has no names of Haiku: DeepMind's code has NFNets and the "
        "networks that they are compared with, no others"
    )


def _is_norm(path: Path) -> bool:
    return len(path) > 2 and _NORM.fullmatch(path[-2]) is not None


def _official_arrays(
    names: HaikuNames, flat: Mapping[Path, Any]
) -> Iterator[OfficialArray]:
    """The official arrays for our flattened variables; an average before its state."""
    blocks = _block_names(names, flat)
    for path, leaf in flat.items():
        module, parameter = _official_name(names, blocks, path)
        shape = (1, 1, 1, *leaf.shape) if _is_norm(path) else tuple(leaf.shape)
        yield OfficialArray(f"{module}/{parameter}", shape, path)
        if path[0] == "batch_stats":
            yield OfficialArray(f"{module}/hidden", shape, None)
            yield OfficialArray(f"{module}/counter", (), None)


def _block_names(names: HaikuNames, paths: Iterable[Path]) -> dict[str, str]:
    """Our name of each residual block -> the official one, numbered through stages."""
    blocks = {path[1] for path in paths if _BLOCK.fullmatch(path[1])}
    order = sorted(blocks, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    return {
        name: f"{names.block}_{k}" if k else names.block for k, name in enumerate(order)
    }


def _official_name(
    names: HaikuNames, blocks: Mapping[str, str], path: Path
) -> tuple[str, str]:
    """(module, parameter) of one of our arrays."""
    _, *modules, parameter = path
    parts = [names.root]
    if modules and modules[0] in blocks:
        parts.append(f"~/{blocks[modules.pop(0)]}")
    inner = "/".join(modules)
    if inner:
        parts.append(names.modules.get(inner, f"~/{inner}"))
    if path[0] == "batch_stats":
        parts.append(f"~/{_STATISTICS[parameter]}")
        parameter = "average"
    elif parameter == "kernel":
        parameter = "w"
    elif parameter == "bias" and inner in names.plain:
        parameter = "b"
    elif parameter == "bias" and _is_norm(path):
        parameter = "offset"
    return "/".join(parts), parameter
