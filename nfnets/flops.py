"""Parameters, multiply-adds and activations of a network, from shapes alone.

The papers' "FLOPs" are multiply-adds of convolutions and matrix products; additions of
biases, activations and pooling are left out. So are they here. "Activations" are those
of "Designing network design spaces" (arXiv 2003.13678): the sizes of the outputs of
the same operations, added up, which training keeps for its backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from nfnets.conv import NATIVE, force_conv_forms
from nfnets.registry import create_model, get_variant


class Counts(NamedTuple):
    """What a network costs."""

    params: int
    macs: int  # for one image
    activations: int  # numbers, for one image; times 4 they are bytes in float32


class Work(NamedTuple):
    """What a jaxpr does, as in `Counts`."""

    macs: int
    activations: int


def count_params(model_name: str, num_classes: int = 1000) -> int:
    """Number of trainable parameters."""
    row = get_variant(model_name)
    model = create_model(model_name, num_classes=num_classes)
    return count_params_of(model, row.train_size)


def count_macs(model_name: str, image_size: int | None = None) -> int:
    """Multiply-adds for one square image, 1000 classes; None is the eval size."""
    row = get_variant(model_name)
    model = create_model(model_name, num_classes=1000)
    return count_macs_of(model, row.eval_size if image_size is None else image_size)


def count_params_of(model: nn.Module, image_size: int = 32) -> int:
    """As `count_params`, for a module; convolutions do not depend on the size."""
    return _size(abstract_variables(model, image_size)["params"])


def count_macs_of(model: nn.Module, image_size: int) -> int:
    """As `count_macs`, for a module."""
    return count(model, image_size).macs


def count(model: nn.Module, image_size: int) -> Counts:
    """What a network costs at that size of images, from one trace; 0.2 to 3 seconds."""

    def init(key: jax.Array, images: jax.Array) -> Any:
        # Initialisation runs the forward pass, and draws no parameter by a product.
        return model.init_with_output(key, images, train=False)

    # The other forms of a grouped convolution may do more work than is counted.
    with force_conv_forms(NATIVE):
        traced, (_, variables) = jax.make_jaxpr(init, return_shape=True)(
            jax.random.key(0), _one_image(image_size)
        )
    return Counts(_size(variables["params"]), *count_jaxpr(traced.jaxpr))


def abstract_variables(model: nn.Module, image_size: int, channels: int = 3) -> Any:
    """Variables of a model, for images of that many channels, as shapes and dtypes."""

    def init(key: jax.Array, images: jax.Array) -> Any:
        return model.init(key, images, train=False)

    images = _one_image(image_size, channels)
    return jax.eval_shape(init, jax.random.key(0), images)


def count_jaxpr(jaxpr: Any) -> Work:
    """Multiply-adds and activations of a jaxpr, with all that is called from it."""
    total = Work(0, 0)
    for eqn in jaxpr.eqns:
        called = [count_jaxpr(inner) for inner in _called_jaxprs(eqn.params)]
        if eqn.primitive.name == "cond":
            called = [max(called)]  # one of the branches runs
        repeats = eqn.params.get("length", 1)  # scan
        for work in (_equation_work(eqn), *called):
            total = Work(*(a + repeats * b for a, b in zip(total, work, strict=True)))
    return total


def _equation_work(eqn: Any) -> Work:
    shapes = [v.aval.shape for v in eqn.invars]
    out = math.prod(eqn.outvars[0].aval.shape) if eqn.outvars else 0
    if eqn.primitive.name == "conv_general_dilated":
        out_features, *_ = eqn.params["dimension_numbers"].rhs_spec
        return Work(out * math.prod(shapes[1]) // shapes[1][out_features], out)
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return Work(out * math.prod(shapes[0][axis] for axis in contracted), out)
    return Work(0, 0)


def _called_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Every jaxpr among an equation's parameters (jit, custom_jvp, scan, cond, ...)."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)  # a ClosedJaxpr holds a Jaxpr
            if hasattr(inner, "eqns"):
                yield inner


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _one_image(size: int, channels: int = 3) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
