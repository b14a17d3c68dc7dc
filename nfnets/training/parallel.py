"""The only file that knows how a step is spread over devices: ``jax.pmap``.

The state has no device axis: every device gets all of it and returns all of it, so
there is no replicate, unreplicate or ``[0]``. Batches have a leading device axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nfnets.errors import UserError

AXIS = "batch"


def devices() -> list[jax.Device]:
    """The devices of this process that share each batch."""
    return jax.local_devices()


def num_devices() -> int:
    """The devices of all processes."""
    return len(devices()) * jax.process_count()


def describe() -> str:
    """The devices in words: "4 x cpu", "8 x tpu (TPU v4) in 2 processes"."""
    device = devices()[0]
    text = f"{num_devices()} x {device.platform}"
    if device.device_kind != device.platform:
        text += f" ({device.device_kind})"
    count = jax.process_count()
    return f"{text} in {count} processes" if count > 1 else text


def check_divisible(batch_size: int, accumulation_steps: int) -> None:
    """Checks that a batch splits evenly over devices and micro-batches.

    Raises:
      UserError: it does not; the message names the nearest batch size that does.
    """
    unit = num_devices() * accumulation_steps
    if batch_size % unit:
        nearest = max(unit, round(batch_size / unit) * unit)
        raise UserError(
            f"config.batch_size {batch_size} does not divide over {num_devices()} "
            f"devices x {accumulation_steps} micro-batches; use e.g. "
            f"--config.batch_size={nearest}"
        )


def pmap_train_step(step: Callable[..., Any]) -> Any:
    """Maps (state, batch) -> (state, metrics); the given state's memory is reused.

    Call the result (or what it compiles to) with positional arguments only: keyword
    arguments are not donated.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        donate_argnums=0,
    )


def pmap_eval_step(step: Callable[..., Any]) -> Any:
    """Maps (variables, batch) -> sums that are equal on all devices."""
    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None)


def fetch(tree: Any) -> Any:
    """A tree of arrays as NumPy's, when they are computed.

    ``device_get`` alone keeps the interpreter while it waits, so that neither the
    watchdog nor a signal gets its turn where a device hangs.
    """
    return jax.device_get(jax.block_until_ready(tree))


def _mesh() -> Mesh:
    return Mesh(np.array(devices()), (AXIS,))


def place_state(state: Any) -> Any:
    """Puts a whole tree on every device of this process, for a step to take over."""
    return jax.device_put(state, NamedSharding(_mesh(), PartitionSpec()))


def place_batch(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Sends each device of this process its slice along the leading axis."""
    return jax.device_put(batch, NamedSharding(_mesh(), PartitionSpec(AXIS)))
