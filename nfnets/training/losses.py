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
    *,
    label_sets: jax.typing.ArrayLike | None = None,
    sum_to_one: bool = True,
) -> jax.Array:
    """Target distributions of mixed, smoothed labels.

    y = (1 - eps) * (ratio * onehot(label) + (1 - ratio) * onehot(mix_label)) + eps / K

    The smoothing mass goes to all K classes, the true one included, as in the official
    codes of NFNet and EfficientNetV2. timm's form, on = 1 - eps + eps / K and
    off = eps / K for either label before they are weighted, is the same.

    Where a class has a set of labels, onehot is 1 / size on each of them, or 1 for a
    binary loss per class (EfficientNetV2's code on ImageNet-21k).

    Args:
      labels: int [N].
      mix_labels: int [N], the partner's labels; equal to ``labels`` without mixing.
      ratio: float32 [N], weight of ``labels``.
      num_classes: K.
      label_smoothing: eps, in [0, 1).
      label_sets: int32 [K, L], of ``nfnets.data.label_sets``; None: one label each.
      sum_to_one: whether the labels of a set share a mass of 1; else each has 1.

    Returns:
      float32 [N, K], rows sum to 1 unless a set's labels have 1 each.
    """
    chex.assert_rank([labels, mix_labels, ratio], 1)
    chex.assert_equal_shape([labels, mix_labels, ratio])
    ratio = ratio[:, None]

    def hot(labels: jax.Array) -> jax.Array:
        if label_sets is None:
            return jax.nn.one_hot(labels, num_classes)
        several = multi_hot(labels, label_sets, num_classes)
        size = jnp.sum(several, axis=-1, keepdims=True)
        return several / size if sum_to_one else several

    hard = ratio * hot(labels)
    hard += (1 - ratio) * hot(mix_labels)
    return (1 - label_smoothing) * hard + label_smoothing / num_classes


def multi_hot(
    labels: jax.Array, label_sets: jax.typing.ArrayLike, num_classes: int
) -> jax.Array:
    """1 for every label in the set of each of ``labels``, int [N]; float32 [N, K]."""
    sets = jnp.asarray(label_sets)[labels]  # [N, L]
    places = jnp.where(sets < 0, num_classes, sets)  # padding falls off the end
    rows = jnp.arange(labels.shape[0])[:, None]
    zeros = jnp.zeros((labels.shape[0], num_classes))
    return zeros.at[rows, places].set(1.0, mode="drop")


def is_right(
    guesses: jax.Array,
    labels: jax.Array,
    label_sets: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Whether guessed classes are the image's label, or among its labels.

    Args:
      guesses: int [N, G].
      labels: int [N]; or [N, L], all labels of each image, filled up with -1.
      label_sets: as in ``soft_targets``; not with the second form.

    Returns:
      bool [N, G].
    """
    if labels.ndim == 2:
        return jnp.any(guesses[:, :, None] == labels[:, None, :], axis=-1)
    if label_sets is None:
        return guesses == labels[:, None]
    sets = jnp.asarray(label_sets)[labels]  # [N, L]
    return jnp.any(guesses[:, :, None] == sets[:, None, :], axis=-1)


def evaluation_loss(
    logits: jax.Array,
    labels: jax.Array,
    label_sets: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Unsmoothed softmax cross-entropy per example, whatever the training loss.

    Args:
      logits: [N, K].
      labels: int [N].
      label_sets: as in ``soft_targets``; the labels of a set share a mass of 1.

    Returns:
      float32 [N].
    """
    if label_sets is None:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    ones = jnp.ones(labels.shape)
    targets = soft_targets(
        labels, labels, ones, logits.shape[-1], 0.0, label_sets=label_sets
    )
    return softmax_cross_entropy(logits, targets)


def threshold_targets(
    targets: jax.Array,
    threshold: float,
    *,
    sum_to_one: bool = False,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Multi-hot targets: 1 where y > threshold, else 0 (RSB, with timm's BCE).

    What was smoothed before is forgotten, and so are mixing weights: an image of two
    classes has both as positives if both weights are above the threshold, else one or
    none.

    Args:
      targets: float32 [N, K], of ``soft_targets``.
      threshold: in [0, 1).
      sum_to_one: whether the positives of an image share a mass of 1 (RSB's ablation).
      label_smoothing: eps of a smoothing after the threshold, (1 - eps) * y + eps / K;
        in [0, 1).

    Returns:
      float32 [N, K]; rows need not sum to 1.
    """
    hard = (targets > threshold).astype(jnp.float32)
    if sum_to_one:
        hard = hard / jnp.maximum(jnp.sum(hard, axis=-1, keepdims=True), 1.0)
    return (1 - label_smoothing) * hard + label_smoothing / targets.shape[-1]


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
    log_p = jax.nn.log_softmax(_at_least_float32(logits))
    return -jnp.sum(targets * log_p, axis=-1)


def binary_cross_entropy(
    logits: jax.Array,
    targets: jax.Array,
    *,
    sum_classes: bool,
    pos_weight: float = 1.0,
) -> jax.Array:
    """-w y log s(x) - (1 - y) log(1 - s(x)), s the sigmoid, per example (RSB, Sec. 3).

    Args:
      logits: [N, K], computed on in float32.
      targets: float32 [N, K] in 0..1.
      sum_classes: the sum over the K classes, otherwise their mean, as in RSB.
      pos_weight: w, above 0; 1 in RSB.

    Returns:
      float32 [N].
    """
    chex.assert_rank([logits, targets], 2)
    chex.assert_equal_shape([logits, targets])
    logits = _at_least_float32(logits)
    positive, negative = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    losses = -pos_weight * targets * positive - (1 - targets) * negative
    return jnp.sum(losses, axis=-1) if sum_classes else jnp.mean(losses, axis=-1)


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
