"""RMSProp as TensorFlow 1 has it, the optimizer of EfficientNet and of RSB's B."""

from __future__ import annotations

import optax


def rmsprop_tf(
    learning_rate: optax.ScalarOrSchedule,
    *,
    decay: float,
    eps: float,
    momentum: float,
    centered: bool = False,
    lr_in_momentum: bool = True,
) -> optax.GradientTransformation:
    """-m, where m = momentum * m + lr * g / sqrt(s + eps).

    s = decay * s + (1 - decay) * g^2 is 1 at first; ``optax.rmsprop`` starts it at 0,
    has eps outside of the root by default, and the learning rate outside of m.

    Args:
      learning_rate: a number, or a function of the number of updates made before.
      decay: of s, [0, 1).
      eps: inside the root.
      momentum: [0, 1).
      centered: whether the square of g's own average is taken off s, a variance then.
      lr_in_momentum: whether m adds up updates with the rate of their time.
    """
    scale_by = optax.scale_by_stddev if centered else optax.scale_by_rms
    rms = scale_by(decay, eps, initial_scale=1.0, eps_in_sqrt=True)
    trace = optax.trace(decay=momentum)
    scale = optax.scale_by_learning_rate(learning_rate)
    last = (scale, trace) if lr_in_momentum else (trace, scale)
    return optax.chain(rms, *last)
