"""The training state: arrays only, so that it can be saved, compared and donated."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct


class TrainState(struct.PyTreeNode):
    """Everything a step changes. Nothing here has a device axis.

    Attributes:
      step: int32, the number of steps done, skipped ones included.
      params: float32 parameter tree.
      batch_stats: float32 BatchNorm statistics; {} for networks without BN.
      opt_state: state of the optax chain.
      ema_params: moving average of ``params``; {} when the recipe keeps none.
      ema_batch_stats: moving average of ``batch_stats``, likewise.
      skipped: int32 [2], updates skipped as non-finite: in a row until now, and in all.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    ema_batch_stats: Any
    skipped: jax.Array


def init_state(
    variables: Any, tx: optax.GradientTransformation, *, keep_ema: bool
) -> TrainState:
    """State before the first step.

    Args:
      variables: what the model's initialisation returned.
      tx: the optimizer.
      keep_ema: whether to keep moving averages; they start as the parameters.
    """
    params = variables["params"]
    batch_stats = variables.get("batch_stats", {})

    def copy(tree: Any) -> Any:
        # Own buffers: the step donates its state, and one buffer cannot go twice.
        return jax.tree.map(jnp.copy, tree) if keep_ema else {}

    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=tx.init(params),
        ema_params=copy(params),
        ema_batch_stats=copy(batch_stats),
        skipped=jnp.zeros((2,), jnp.int32),
    )
