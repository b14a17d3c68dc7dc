"""Initial variables of a network without compiling, or running, its forward pass."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Literal, jaxpr_as_fun


def init_variables(
    model: nn.Module, key: Array, image_size: int = 32, channels: int = 3
) -> Any:
    """What ``model.init(key, images, train=False)`` returns, without its forward pass.

    ``model.init`` is traced, all that no variable depends on is cut away, and the rest
    (one draw per parameter) runs operation by operation: one small program is compiled
    per distinct size of a parameter, however deep the network is.

    Args:
      model: a network of this project.
      key: a jax random key; equal keys give equal variables.
      image_size: pixels; the parameters of convolutional networks do not depend on it.
      channels: of the images: 3 for RGB, 1 for gray, any other number.

    Returns:
      Variables: ``{"params": ...}``, and ``batch_stats`` where there are any, float32.
    """

    def init(key: Array) -> Any:
        images = jnp.zeros((1, image_size, image_size, channels), jnp.float32)
        return model.init(key, images, train=False)

    traced, shapes = jax.make_jaxpr(init, return_shape=True)(key)
    needed = _variables_in(traced.jaxpr.outvars)
    equations = []
    for equation in reversed(traced.jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed |= _variables_in(equation.invars)
            equations.append(equation)
    pruned = traced.jaxpr.replace(eqns=equations[::-1])
    leaves = jaxpr_as_fun(traced.replace(jaxpr=pruned))(key)
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _variables_in(atoms: Any) -> set[Any]:
    return {atom for atom in atoms if not isinstance(atom, Literal)}
