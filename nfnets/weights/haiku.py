"""Parameters under the names of the official Haiku release, to our variables and back.

An official name is "<module>/<parameter>", e.g. ``NFNet/~/nf_block_3/~/conv1/w``.
Kernels are HWIO and matrices [in, out] on both sides, so only names differ.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.registry import create_model, family_of, get_variant

Path = tuple[str, ...]  # collection, modules, parameter: ("params", "head", "kernel")


@dataclasses.dataclass(frozen=True)
class HaikuNames:
    """How the official code of one family names what we name otherwise."""

    root: str  # the network's module
    block: str  # of the first residual block; later ones get _1, _2, ...
    modules: Mapping[str, str]  # our submodule path, joined by "/", to the official
    dense: frozenset[str]  # ours that are linear layers: their bias is called "b"


_SHARED = {
    "head": "linear",
    "squeeze_excite/reduce": "squeeze_excite/~/linear",
    "squeeze_excite/expand": "squeeze_excite/~/linear_1",
}
_DENSE = frozenset({"head", "squeeze_excite/reduce", "squeeze_excite/expand"})
_RESNET = {**_SHARED, "stem_conv": "initial_conv"}

# Family of the registry -> its official names.
_NAMES: dict[str, HaikuNames] = {
    "nfnets.nfnet": HaikuNames("NFNet", "nf_block", _SHARED, _DENSE),
    "nfnets.nf_resnet": HaikuNames("NF_ResNet", "nf_res_block", _RESNET, _DENSE),
    "nfnets.nf_regnet": HaikuNames("NF_RegNet", "nf_block", _RESNET, _DENSE),
}

_BLOCK = re.compile(r"stage(\d+)_block(\d+)")


def convert_haiku(model_name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Our variables from official parameters.

    Args:
      model_name: any model with official weights; the classes are counted in arrays.
      arrays: official name ("module/parameter") to array; all of them, nothing else.

    Returns:
      ``{"params": ...}`` with float32 numpy arrays.
    """
    names = _names_of(model_name)
    head = f"{names.root}/~/linear/b"
    if head not in arrays:
        raise UserError(f"not the weights of {model_name}: {head!r} is missing")
    wanted = official_shapes(model_name, num_classes=int(np.size(arrays[head])))
    _check_names(model_name, {n: s for n, s, _ in wanted}, arrays)
    flat = {path: np.asarray(arrays[name], np.float32) for name, _, path in wanted}
    return traverse_util.unflatten_dict(flat)


def export_haiku(
    model_name: str, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Official parameters from our variables: the inverse of `convert_haiku`."""
    flat = traverse_util.flatten_dict(dict(variables))
    official = _official_names(_names_of(model_name), flat)
    return {official[path]: np.asarray(value) for path, value in flat.items()}


def official_shapes(
    model_name: str, num_classes: int = 1000
) -> list[tuple[str, tuple[int, ...], Path]]:
    """(official name, shape, our path) of every array of a model."""
    names = _names_of(model_name)
    model = create_model(model_name, num_classes=num_classes)
    abstract = abstract_variables(model, get_variant(model_name).train_size)
    flat = traverse_util.flatten_dict(abstract)
    official = _official_names(names, flat)
    return [(official[path], tuple(leaf.shape), path) for path, leaf in flat.items()]


def _names_of(model_name: str) -> HaikuNames:
    family = family_of(model_name)
    if family not in _NAMES:
        raise UserError(f"{model_name} has no official Haiku weights")
    return _NAMES[family]


def _official_names(names: HaikuNames, paths: Iterable[Path]) -> dict[Path, str]:
    paths = list(paths)
    blocks = {path[1] for path in paths if _BLOCK.fullmatch(path[1])}
    order = sorted(blocks, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    numbered = {
        name: f"{names.block}_{k}" if k else names.block for k, name in enumerate(order)
    }
    return {path: _official_name(names, numbered, path) for path in paths}


def _official_name(names: HaikuNames, blocks: Mapping[str, str], path: Path) -> str:
    _, *modules, parameter = path
    parts = [names.root]
    if modules and modules[0] in blocks:
        parts.append(blocks[modules[0]])
        modules = modules[1:]
    inner = "/".join(modules)
    if inner:
        parts.append(names.modules.get(inner, inner))
    if inner in names.dense:
        parameter = {"kernel": "w", "bias": "b"}[parameter]
    elif parameter == "kernel":
        parameter = "w"
    return "/~/".join(parts) + f"/{parameter}"


def _check_names(
    model_name: str,
    wanted: Mapping[str, tuple[int, ...]],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Raises with the names that are missing, unexpected or of another shape."""
    problems = {
        "missing": sorted(set(wanted) - set(arrays)),
        "unexpected": sorted(set(arrays) - set(wanted)),
        "wrong shape": [
            f"{name} {np.shape(arrays[name])} instead of {shape}"
            for name, shape in wanted.items()
            if name in arrays and np.shape(arrays[name]) != shape
        ],
    }
    found = [
        f"{len(bad)} {what}: {', '.join(bad[:4])}{', ...' if len(bad) > 4 else ''}"
        for what, bad in problems.items()
        if bad
    ]
    if found:
        raise UserError(f"not the weights of {model_name}: {'; '.join(found)}")
