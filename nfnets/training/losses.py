"""Losses on logits and soft targets, in float32."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import optax


def soft_targets(
    labels: jax.Array,
    mix_labels: jax.Array,
    ratio: jax.Array,
    num_classes: int,
    label_smoothing: float,
) -> jax.Array:
    """Target distributions of mixed, smoothed labels.

    y = (1 - eps) * (ratio * onehot(label) + (1 - ratio) * onehot(mix_label)) + eps / K

    The smoothing mass goes to all K classes, the true one included, as in the official
    codes of NFNet and EfficientNetV2. timm's form, on = 1 - eps + eps / K and
    off = eps / K for either label before they are weighted, is the same.

    Args:
      labels: int [N].
      mix_labels: int [N], the partner's labels; equal to ``labels`` without mixing.
      ratio: float32 [N], weight of ``labels``.
      num_classes: K.
      label_smoothing: eps, in [0, 1).

    Returns:
      float32 [N, K], rows sum to 1.
    """
    chex.assert_rank([labels, mix_labels, ratio], 1)
    chex.assert_equal_shape([labels, mix_labels, ratio])
    ratio = ratio[:, None]
    hard = ratio * jax.nn.one_hot(labels, num_classes)
    hard += (1 - ratio) * jax.nn.one_hot(mix_labels, num_classes)
    return (1 - label_smoothing) * hard + label_smoothing / num_classes


def threshold_targets(targets: jax.Array, threshold: float) -> jax.Array:
    """Multi-hot targets: 1 where y > threshold, else 0 (RSB, with timm's BCE).

    Smoothing and mixing weights are forgotten: an image of two classes has both as
    positives if both weights are above the threshold, else one or none.

    Args:
      targets: float32 [N, K], of ``soft_targets``.
      threshold: in [0, 1).

    Returns:
      float32 [N, K]; rows need not sum to 1.
    """
    return (targets > threshold).astype(jnp.float32)


def softmax_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-sum(y * log softmax(logits)) per example.

    Args:
      logits: [N, K], computed on in float32.
      targets: float32 [N, K], rows sum to 1.

    Returns:
      float32 [N].
    """
    chex.assert_rank([logits, targets], 2)
    chex.assert_equal_shape([logits, targets])
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(targets * log_p, axis=-1)


def binary_cross_entropy(
    logits: jax.Array, targets: jax.Array, *, sum_classes: bool
) -> jax.Array:
    """-y log s(x) - (1 - y) log(1 - s(x)), s the sigmoid, per example (RSB, Sec. 3).

    Args:
      logits: [N, K], computed on in float32.
      targets: float32 [N, K] in 0..1.
      sum_classes: the sum over the K classes, otherwise their mean, as in RSB.

    Returns:
      float32 [N].
    """
    chex.assert_rank([logits, targets], 2)
    chex.assert_equal_shape([logits, targets])
    losses = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets)
    return jnp.sum(losses, axis=-1) if sum_classes else jnp.mean(losses, axis=-1)
