"""Models by name: ``create_model("nfnet_f1", num_classes=1000)``."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import math
import types
import typing
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from nfnets.errors import UserError, did_you_mean

if typing.TYPE_CHECKING:
    import flax.linen as nn

# One line per family: a module with VARIANTS (name -> frozen row), SMALL_IMAGES (fields
# of a row for images of about 32 pixels), blocks(row, stochastic_depth_rate) with an
# entry for each residual block, and build(row, ...).
# This is the only place that knows them; they are imported when first asked for.
FAMILIES: tuple[str, ...] = (
    "nfnets.nfnet",
    "nfnets.nf_resnet",
    "nfnets.nf_regnet",
    "nfnets.resnet_baselines",
    "effnetv2.model",
    "resnet_rs.resnet",
    "resnet_rs.regnet",
    "resnet_rs.vit",
)


def create_model(
    name: str, *, num_classes: int, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> nn.Module:
    """The network of that name.

    Args:
      name: one of `list_models()`.
      num_classes: width of the classifier.
      dtype: of activations and convolutions; parameters are always float32.
      **overrides: fields of the variant's row to replace, e.g. ``drop_rate=0.1`` or,
        for small images, ``depths=(1, 1), widths=(64, 128), strides=(1, 2)``.

    Returns:
      A Linen module: ``model.apply(variables, images, train=False)`` -> logits.
    """
    if num_classes < 1:
        raise UserError(f"num_classes must be at least 1, not {num_classes}")
    family = importlib.import_module(family_of(name))
    row = get_variant(name, **overrides)
    return family.build(row, num_classes=num_classes, dtype=dtype)


def get_variant(name: str, **overrides: Any) -> Any:
    """The frozen row of a model: depths, widths, train_size, drop_rate, ...

    Args:
      name: one of `list_models()`.
      **overrides: fields to replace, as in `create_model`.
    """
    row = importlib.import_module(family_of(name)).VARIANTS[name]
    return _replace(name, row, overrides)


def count_blocks(name: str) -> int:
    """Number of residual blocks of a model; it is not built for that."""
    family = importlib.import_module(family_of(name))
    return len(family.blocks(family.VARIANTS[name], 0.0))


def small_image_overrides(name: str) -> dict[str, Any]:
    """Fields of a model's row that keep its stem from shrinking small images."""
    return dict(importlib.import_module(family_of(name)).SMALL_IMAGES)


def list_models(pattern: str = "*") -> list[str]:
    """Names of all models that match the shell pattern, sorted."""
    names = [name for family in FAMILIES for name in models_of(family)]
    return sorted(fnmatch.filter(names, pattern))


def models_of(family: str) -> list[str]:
    """Names of a family's models, in the order of its table."""
    return list(importlib.import_module(family).VARIANTS)


def family_of(name: str) -> str:
    """The module that defines a model, as an entry of `FAMILIES`."""
    for family in FAMILIES:
        if name in importlib.import_module(family).VARIANTS:
            return family
    hint = did_you_mean(name.lower(), list_models())
    raise UserError(f"unknown model {name!r}; {hint}")


def _replace(name: str, row: Any, overrides: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(type(row))
    changes = {}
    for field, value in overrides.items():
        if field not in hints:
            known = ", ".join(hints)
            raise UserError(f"{name} has no field {field!r}; its fields are {known}")
        value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, hints[field]):
            raise UserError(
                f"{name}: {field}={value!r} should be like "
                f"{getattr(row, field)!r} ({hints[field]})"
            )
        changes[field] = value
    return dataclasses.replace(row, **changes)


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is of a type that rows use: scalars, unions, tuple[x, ...]."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_fits(v, item) for v in value)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, hint)
