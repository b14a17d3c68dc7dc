"""A network with its optimizer: what is known of a run before there is any value."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax

from nfnets import flops
from nfnets.training.optimizer import make_optimizer
from nfnets.training.recipe import Recipe
from nfnets.training.state import TrainState, init_state


@dataclasses.dataclass(frozen=True)
class Learner:
    """What makes states, and what a step can be compiled from.

    Attributes:
      model: takes (images, train=...), as ``Recipe.create_model`` gives.
      tx: the optimizer of its parameters.
      keep_ema: whether its states have moving averages.
      shapes: of such a state, ``jax.ShapeDtypeStruct`` for each array.
    """

    model: Any
    tx: optax.GradientTransformation
    keep_ema: bool
    shapes: TrainState

    @property
    def num_params(self) -> int:
        """Numbers in the parameters, frozen ones included."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes.params))

    @property
    def state_bytes(self) -> int:
        """Size of a state."""
        leaves = jax.tree.leaves(self.shapes)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    def init(self, variables: Any) -> TrainState:
        """The state before the first step, from initial variables."""
        return init_state(variables, self.tx, keep_ema=self.keep_ema)


def make_learner(recipe: Recipe) -> Learner:
    """The recipe's; nothing is computed but shapes.

    Args:
      recipe: with ``for_source`` applied.

    Raises:
      UserError: as ``make_optimizer``.
    """
    model, keep_ema = recipe.create_model(), recipe.ema_decay is not None
    variables = flops.abstract_variables(model, recipe.train_image_size)
    tx = make_optimizer(recipe, variables["params"])
    shapes = jax.eval_shape(
        lambda variables: init_state(variables, tx, keep_ema=keep_ema), variables
    )
    return Learner(model, tx, keep_ema, shapes)
