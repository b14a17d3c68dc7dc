"""What is exported: a trained network that takes the pixels of images as they are."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.export import symbolic_shape

from nfnets.data.normalization import normalize
from nfnets.errors import UserError
from nfnets.training.tested_weights import Tested, check_size

# A file of any format holds less: its offsets are 32 bits wide.
_MAX_BYTES = 2**31 - 2**24


@dataclasses.dataclass(frozen=True)
class Network:
    """A classifier with its weights and what it expects of images.

    Attributes:
      model: computes in float32.
      variables: of the model.
      image_size: S, pixels of a side.
      normalization: a key of ``data.normalization.NORMALIZATIONS``.
    """

    model: nn.Module
    variables: Any
    image_size: int
    normalization: str

    def logits(self, variables: Any, images: Array) -> Array:
        """Images [B, S, S, 3], uint8 -> [B, K], float32."""
        images = normalize(images, self.normalization)
        logits: Any = self.model.apply(variables, images, train=False)
        return logits

    @functools.cached_property
    def images(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of the input; the size of the batch is a symbol.

        Once for each network: two symbols of the same name are not one size.
        """
        (batch,) = symbolic_shape("batch")
        side = self.image_size
        return jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)


def network_of(tested: Tested, prefix: str) -> Network:
    """The network of a run or of a file, at the recipe's evaluation size, in float32.

    Args:
      tested: weights and recipe.
      prefix: which weights: "eval", or "eval_ema" the moving average.

    Raises:
      UserError: the size does not fit the network, or its weights no file.
    """
    recipe = tested.recipe.for_source(num_classes=tested.num_classes)
    model = recipe.create_model().clone(dtype=jnp.float32)
    variables = tested.by_prefix[prefix]
    check_size(model, variables, recipe.eval_image_size)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if size > _MAX_BYTES:
        raise UserError(
            f"{recipe.model} has {size / 1e9:.2f} GB of weights, exported files hold "
            f"less than {_MAX_BYTES / 1e9:.2f} GB; take a smaller network"
        )
    normalization = recipe.data.normalization
    return Network(model, variables, recipe.eval_image_size, normalization)
