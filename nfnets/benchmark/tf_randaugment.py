"""RandAugment in TensorFlow ops, for the tf.data peer.

The operations of ``nfnets.data.tf_operations`` in the official code's form, except
where that is needlessly slow: one branch runs per layer, and the warp fills holes.
"""

from __future__ import annotations

import math
from typing import Any

from nfnets.data.randaugment import REACH
from nfnets.data.tf_operations import FILL, NAMES, operation_argument

_SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def randaugment(image: Any, seed: Any, *, layers: int, magnitude: float) -> Any:
    """Applies ``layers`` of the operations to uint8 ``[S, S, 3]``.

    Args:
        image: what they are applied to.
        seed: int64 scalar; equal seeds give equal images.
        layers: number of operations.
        magnitude: M out of 10.
    """
    import tensorflow as tf

    for layer in range(layers):
        draws = tf.random.stateless_uniform([3], tf.stack([seed, 2 + 2 * layer]))
        choice = tf.random.stateless_uniform(
            [], tf.stack([seed, 3 + 2 * layer]), 0, len(NAMES), tf.int32
        )
        branches = [
            lambda name=name, image=image, draws=draws: apply_operation(
                image, name, operation_argument(name, magnitude, REACH), draws
            )
            for name in NAMES
        ]
        image = tf.switch_case(choice, branches)
        image.set_shape([None, None, 3])
    return image


def apply_operation(image: Any, name: str, argument: float, draws: Any) -> Any:
    """One operation; draws in 0..1 are the sign's and Cutout's row and column."""
    import tensorflow as tf

    if name in _SIGNED:
        signed = tf.where(draws[0] < 0.5, -argument, argument)
        return _warp(image, name, signed)
    if name == "Cutout":
        return _cutout(image, int(argument), draws[1:])
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        degenerate = {
            "Color": _grey,
            "Contrast": _mean_level,
            "Brightness": tf.zeros_like,
            "Sharpness": _smooth,
        }[name](image)
        return _blend(degenerate, image, argument)
    if name in ("AutoContrast", "Equalize"):
        stretch = _autocontrast if name == "AutoContrast" else _equalize
        return tf.stack([stretch(image[..., c]) for c in range(3)], -1)
    return _map_values(image, name, int(argument))


def _map_values(image: Any, name: str, argument: int) -> Any:
    """Invert, Posterize, Solarize or SolarizeAdd."""
    import tensorflow as tf

    if name == "Invert":
        return 255 - image
    if name == "Posterize":
        shift = tf.constant(8 - argument, tf.uint8)
        shifted = tf.bitwise.right_shift(image, shift)
        return tf.bitwise.left_shift(shifted, shift)
    if name == "Solarize":
        return tf.where(image < argument % 256, image, 255 - image)
    added = tf.clip_by_value(tf.cast(image, tf.int32) + argument, 0, 255)
    return tf.where(image < 128, tf.cast(added, tf.uint8), image)


def _autocontrast(channel: Any) -> Any:
    import tensorflow as tf

    values = tf.cast(channel, tf.float32)
    low, high = tf.reduce_min(values), tf.reduce_max(values)

    def stretched() -> Any:
        scale = 255.0 / (high - low)
        return tf.cast(tf.clip_by_value(values * scale - low * scale, 0, 255), tf.uint8)

    return tf.cond(high > low, stretched, lambda: channel)


def _equalize(channel: Any) -> Any:
    import tensorflow as tf

    values = tf.cast(channel, tf.int32)
    counts = tf.histogram_fixed_width(values, [0, 255], nbins=256)
    step = (tf.reduce_sum(counts) - tf.boolean_mask(counts, counts > 0)[-1]) // 255

    def flattened() -> Any:
        below = (tf.cumsum(counts, exclusive=True) + step // 2) // step
        table = tf.concat([[0], tf.clip_by_value(below[1:], 0, 255)], 0)
        return tf.cast(tf.gather(table, values), tf.uint8)

    return tf.cond(step > 0, flattened, lambda: channel)


def _grey(image: Any) -> Any:
    import tensorflow as tf

    return tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))


def _mean_level(image: Any) -> Any:
    import tensorflow as tf

    grey = tf.cast(tf.image.rgb_to_grayscale(image), tf.int32)
    counts = tf.histogram_fixed_width(grey, [0, 255], nbins=256)
    mean = tf.reduce_sum(tf.cast(counts, tf.float32)) / 256.0
    level = tf.cast(tf.clip_by_value(mean, 0.0, 255.0), tf.uint8)
    return tf.fill(tf.shape(image), level)


def _smooth(image: Any) -> Any:
    """3x3 mean, the centre five times; the border is the image's."""
    import tensorflow as tf

    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13.0
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])  # [3, 3, 3, 1]
    values = tf.cast(image, tf.float32)[None]
    smooth = tf.nn.depthwise_conv2d(values, kernel, [1, 1, 1, 1], "VALID")[0]
    smooth = tf.cast(tf.clip_by_value(smooth, 0, 255), tf.uint8)
    border = [[1, 1], [1, 1], [0, 0]]
    inside = tf.pad(tf.ones_like(smooth), border)
    return tf.where(inside > 0, tf.pad(smooth, border), image)


def _blend(degenerate: Any, image: Any, factor: float) -> Any:
    import tensorflow as tf

    base = tf.cast(degenerate, tf.float32)
    mixed = base + factor * (tf.cast(image, tf.float32) - base)
    return tf.cast(tf.clip_by_value(mixed, 0, 255), tf.uint8)


def _warp(image: Any, name: str, level: Any) -> Any:
    """Rotation, shear or shift; the matrix says which pixel each result pixel shows."""
    import tensorflow as tf

    one, zero = tf.ones([]), tf.zeros([])
    if name == "Rotate":
        last = tf.cast(tf.shape(image)[:2] - 1, tf.float32)  # y, x
        cos, sin = tf.cos(level * (math.pi / 180)), tf.sin(level * (math.pi / 180))
        x = (last[1] - (cos * last[1] - sin * last[0])) / 2
        y = (last[0] - (sin * last[1] + cos * last[0])) / 2
        matrix = [cos, -sin, x, sin, cos, y]
    else:
        places = {"ShearX": 1, "TranslateX": 2, "ShearY": 3, "TranslateY": 5}
        matrix = [one, zero, zero, zero, one, zero]
        matrix[places[name]] = level
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([*matrix, zero, zero])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(FILL),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def _cutout(image: Any, half: int, centre: Any) -> Any:
    import tensorflow as tf

    sides = tf.shape(image)[:2]
    middle = tf.cast(centre * tf.cast(sides, tf.float32), tf.int32)
    inside = []
    for axis in range(2):
        place = tf.range(sides[axis])
        inside.append((place >= middle[axis] - half) & (place < middle[axis] + half))
    hole = inside[0][:, None, None] & inside[1][None, :, None]
    return tf.where(hole, tf.constant(FILL, tf.uint8), image)
