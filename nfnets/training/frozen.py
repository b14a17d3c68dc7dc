"""Parameters that are not trained (``optim.frozen``), and what stands still with them.

A BatchNorm whose parameters are all frozen works as in evaluation: it normalises by its
running statistics, which stay, as timm's ``freeze`` and Keras's ``trainable = False``
have it. Dropout and stochastic depth are as in training throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util

from nfnets.training.parameter_paths import param_mask


def moving(params: Any, batch_stats: Any, frozen: Sequence[str]) -> tuple[Any, Any]:
    """Trees of bools shaped as both arguments: what training changes.

    Args:
      params: parameter tree; only its paths are read.
      batch_stats: BatchNorm's statistics, likewise; {} without.
      frozen: ``OptimConfig.frozen``.
    """
    trained = param_mask(params, exclude=frozen)
    of_params = traverse_util.flatten_dict(trained)
    trained_modules = {path[:-1] for path, moves in of_params.items() if moves}
    of_stats = {
        path: path[:-1] in trained_modules
        for path in traverse_util.flatten_dict(batch_stats)
    }
    return trained, traverse_util.unflatten_dict(of_stats)


def keep_frozen(moves: Any, new: Any, old: Any) -> Any:
    """``new`` where the tree of bools says so, elsewhere ``old`` to the bit."""
    return jax.tree.map(lambda m, n, o: n if m else o, moves, new, old)


def without_gradient(params: Any, frozen: Sequence[str]) -> Any:
    """The same parameters; the gradient of the frozen ones is 0 and is not computed."""
    trained = param_mask(params, exclude=frozen)
    return keep_frozen(trained, params, jax.lax.stop_gradient(params))


def resting_norms(
    params: Any, batch_stats: Any, frozen: Sequence[str]
) -> AbstractContextManager[None]:
    """Within it, modules with statistics whose parameters are frozen do not train.

    Args:
      params: parameter tree; only its paths are read.
      batch_stats: BatchNorm's statistics, likewise; {} without.
      frozen: ``OptimConfig.frozen``.
    """
    _, moves = moving(params, batch_stats, frozen)
    of_stats = traverse_util.flatten_dict(moves)
    resting = {path[:-1] for path, moves_on in of_stats.items() if not moves_on}

    def call(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name == "__call__" and context.module.path in resting:
            kwargs = {**kwargs, "train": False}
        return method(*args, **kwargs)

    return nn.intercept_methods(call)
