"""RMSProp as TensorFlow 1 has it, the optimizer of EfficientNet and of RSB's B."""

from __future__ import annotations

import optax


def rmsprop_tf(
    learning_rate: optax.ScalarOrSchedule,
    *,
    decay: float,
    eps: float,
    momentum: float,
) -> optax.GradientTransformation:
    """-m, where m = momentum * m + lr * g / sqrt(s + eps).

    s = decay * s + (1 - decay) * g^2 is 1 at first; ``optax.rmsprop`` starts it at 0,
    has eps outside of the root by default, and the learning rate outside of m.

    Args:
      learning_rate: a number, or a function of the number of updates made before.
      decay: of s, [0, 1).
      eps: inside the root.
      momentum: [0, 1).
    """
    return optax.chain(
        optax.scale_by_rms(decay, eps, initial_scale=1.0, eps_in_sqrt=True),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(decay=momentum),
    )
