"""The evaluation step: a pure function, to be mapped over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets.data.normalization import normalize
from nfnets.training.losses import evaluation_loss, is_right

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def make_eval_step(
    model: Any,
    axis_name: str = "batch",
    *,
    normalization: str = "imagenet",
    label_sets: np.ndarray | None = None,
    guesses: bool = False,
) -> Callable[[Any, Batch], Metrics]:
    """The step (variables, batch) -> sums over all devices' unmasked examples.

    The batch is one device's share: "image" float32 [B, S, S, 3], "label" int32 [B],
    "mask" bool [B], False on padding. Returns int32 "top1", "top5", "examples" and the
    float32 sum "loss" (unsmoothed softmax cross-entropy, whatever the training loss:
    RSB's validation loss is that too). ``normalization`` is the recipe's. With
    ``label_sets``, int32 [K, L], or where the batch has "labels" too, int32 [B, L]
    filled up with -1 (ReaL), a guess is right if it is one of the image's labels.
    With ``guesses`` also each image's, of all devices, int32 [D, B]: "guess" the first
    one, "hit5" whether one of five is right, "label" and "mask".
    """

    def eval_step(variables: Any, batch: Batch) -> Metrics:
        images, labels = normalize(batch["image"], normalization), batch["label"]
        mask = batch["mask"].astype(bool)
        logits = model.apply(variables, images, train=False)
        _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))  # [B, 5]
        hits = is_right(best, batch.get("labels", labels), label_sets)
        loss = evaluation_loss(logits, labels, label_sets)
        sums = {
            "top1": jnp.sum(hits[:, 0] & mask, dtype=jnp.int32),
            "top5": jnp.sum(hits.any(axis=-1) & mask, dtype=jnp.int32),
            "examples": jnp.sum(mask, dtype=jnp.int32),
            "loss": jnp.sum(jnp.where(mask, loss, 0.0), dtype=jnp.float32),
        }
        sums = jax.lax.psum(sums, axis_name)
        if not guesses:
            return sums
        own = {"guess": best[:, 0], "hit5": hits.any(axis=-1)}
        own |= {"label": labels, "mask": mask}
        own = {name: value.astype(jnp.int32) for name, value in own.items()}
        return sums | jax.lax.all_gather(own, axis_name)

    return eval_step
