"""Features out of a network: the map of every stage, and what its classifier sees.

``model.apply(variables, images, train=False, capture="pooled")`` is a dictionary with
one entry. Under jit, what nothing captured depends on is not computed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from nfnets.errors import UserError

# What to return: names of `feature_info`, or "logits"; "all": everything; None: the
# logits, not in a dictionary.
Capture = str | Sequence[str] | None
Output = Array | dict[str, Array]


class FeatureInfo(NamedTuple):
    """Something that a network can return instead of its logits."""

    name: str
    channels: int
    stride: int | None  # pixels of the image per step of the map; None: pooled over it


def feature_info(model: Any) -> tuple[FeatureInfo, ...]:
    """What ``capture`` offers beside the logits, in the order of the network.

    Convolutional networks have ``stage1`` ..., the maps [N, H / stride, W / stride, C]
    after the last block of every stage, as the next block gets them; transformers
    ``block0`` ..., tokens [N, 1 + H / stride * W / stride, C], the class token first.
    ``pooled``, float32 [N, C], is the input of the classifier ``head``.

    Args:
      model: a network of this project. Nothing is computed.
    """
    # So large that the ratio of sizes is the stride, odd though some sizes may be.
    size = 8 * model.variant.train_size
    init = functools.partial(model.init_with_output, train=False, capture="all")
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    outputs, _ = jax.eval_shape(init, jax.random.key(0), images)
    numbered = {name: re.search(r"\d+", name) for name in outputs}
    maps = sorted((int(n[0]), name) for name, n in numbered.items() if n)
    return (
        *(_map_info(name, outputs[name].shape, size) for _, name in maps),
        FeatureInfo("pooled", outputs["pooled"].shape[-1], None),
    )


def _map_info(name: str, shape: Sequence[int], image_size: int) -> FeatureInfo:
    is_map = len(shape) == 4
    steps = shape[1] if is_map else (shape[1] - 1) ** 0.5
    return FeatureInfo(name, shape[-1], round(image_size / steps))


def stage_of(block: str) -> str:
    """The stage of a block, by its name: ``stage1`` of ``stage1_block0``."""
    return block.partition("_")[0]


def captured(outputs: Mapping[str, Array], capture: Capture) -> Output:
    """What a network returns, out of all that it can return.

    Args:
      outputs: everything by name, ``logits`` among it.
      capture: see `Capture`.

    Raises:
      UserError: a name is not there; lists those that are.
    """
    if capture is None:
        return outputs["logits"]
    if capture == "all":
        return dict(outputs)
    names = (capture,) if isinstance(capture, str) else tuple(capture)
    unknown = [name for name in names if name not in outputs]
    if unknown:
        raise UserError(
            f"capture: the network has no {unknown[0]!r}; it has {', '.join(outputs)}, "
            "and 'all' for all of them"
        )
    return {name: outputs[name] for name in names}
