"""RandAugment, AutoAugment and 3-Augment with timm's laws, and timm's policy strings.

timm 1.0.31 differs from Google's codes: it skips operations, adds noise to the
magnitude, stops it at 10, and has forms of the operations that always get stronger
with it. The draws are ours; only their law is timm's.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from nfnets.data.operation import Operation
from nfnets.data.timm_tables import (
    POLICIES,
    RANDAUGMENT,
    RANDAUGMENT_INCREASING,
    make_operation,
)
from nfnets.errors import UserError

_MAX_MAGNITUDE = 10.0
# A standard deviation beyond this means a uniform magnitude, in RandAugment only.
_MAX_NOISE = 100.0
# One operation uses this many draws: whether it is applied, two for the noise of the
# magnitude, its own (the sign, or the radius of a blur) and the kernel.
_DRAWS = 5


def draw_randaugment(
    rng: np.random.Generator,
    *,
    layers: int,
    magnitude: float,
    rate: float,
    noise: float,
    increasing: bool,
    kernel: str,
) -> tuple[Operation, ...]:
    """The operations of one image by timm's RandAugment.

    Args:
        rng: six draws per layer, whatever the outcome.
        layers: operations drawn, uniformly with replacement.
        magnitude: M out of 10, 0 or more.
        rate: probability that a drawn operation is applied.
        noise: standard deviation of the magnitude, which stays in 0..10; above 100 the
            magnitude is uniform on 0..M.
        increasing: whether to use the forms that get stronger with the magnitude.
        kernel: of geometric operations: ``bilinear``, ``bicubic``, or ``random`` (one
            of the two, drawn per operation).

    Returns:
        At most ``layers`` operations, in the order in which they are applied.
    """
    names = RANDAUGMENT_INCREASING if increasing else RANDAUGMENT
    noise = math.inf if noise > _MAX_NOISE else noise
    drawn: list[Operation] = []
    for _ in range(layers):
        choice, *draws = rng.random(1 + _DRAWS).tolist()
        name = names[int(choice * len(names))]
        drawn += _drawn(name, rate, magnitude, noise, kernel, draws)
    return tuple(drawn)


def draw_autoaugment(
    rng: np.random.Generator, policy: str, *, noise: float, kernel: str
) -> tuple[Operation, ...]:
    """The operations of one image by an AutoAugment policy or 3-Augment.

    Args:
        rng: eleven draws, whatever the outcome; six for ``3a``.
        policy: a name of ``POLICIES``.
        noise: standard deviation of the magnitudes, which stay in 0..10; 0 for the
            published policies, infinite for uniform ones on 0 to the policy's.
        kernel: as in :func:`draw_randaugment`.

    Returns:
        At most two operations, in the order in which they are applied.

    Raises:
        UserError: an unknown policy.
    """
    sub_policies = POLICIES[_check_policy(policy)]
    choice, *draws = rng.random(1 + _DRAWS * len(sub_policies[0])).tolist()
    drawn: list[Operation] = []
    for index, op in enumerate(sub_policies[int(choice * len(sub_policies))]):
        own = draws[index * _DRAWS : (index + 1) * _DRAWS]
        drawn += _drawn(op.name, op.probability, op.magnitude, noise, kernel, own)
    return tuple(drawn)


def _drawn(
    name: str,
    rate: float,
    magnitude: float,
    noise: float,
    kernel: str,
    draws: list[float],
) -> list[Operation]:
    """The operation, or nothing where it is skipped."""
    applied, first, second, own, cubic = draws
    if applied >= rate:
        return []
    if noise == math.inf:
        magnitude *= first
    elif noise > 0:
        # Box and Muller; the logarithm's argument is in (0, 1].
        radius = math.sqrt(-2 * math.log(1 - first))
        magnitude += noise * radius * math.cos(2 * math.pi * second)
    magnitude = min(max(magnitude, 0.0), _MAX_MAGNITUDE)
    if kernel == "random":
        kernel = "bilinear" if cubic < 0.5 else "bicubic"
    return [make_operation(name, magnitude, own, kernel)]


# What a part of a string means where it is absent.
_DEFAULTS = {"m": 10, "n": 2, "p": 0.5, "mstd": 0.0, "mmax": 10, "inc": 0}


def parse(text: str) -> dict[str, Any]:
    """The settings that a policy string of timm's ``--aa`` stands for.

    Args:
        text: ``rand``, then any of ``m9`` (magnitude, 10 if absent), ``n3`` (layers,
            2), ``p0.5`` (rate, 0.5), ``mstd0.5`` (noise, 0), ``inc1`` (increasing
            forms, 0) and ``mmax10``, joined by ``-``; or a name of ``POLICIES``, then
            ``mstd0.5`` or nothing.

    Returns:
        The fields ``semantics``, ``autoaugment`` and ``randaugment_*`` of
        :class:`nfnets.data.augment_config.AugmentConfig`.

    Raises:
        UserError: a part that timm does not know or passes over, that occurs twice, or
            that is not supported here (``t...`` and ``w...``, other operations or
            weights; ``mmax`` other than 10; ``augmix``).
    """
    kind, *parts = text.split("-")
    values: dict[str, Any] = {}
    known = tuple(_DEFAULTS) if kind == "rand" else ("mstd",)
    if kind != "rand":
        _check_policy(kind, "rand")
    for part in parts:
        key, value = _parse_part(text, part, known)
        if key in values:
            raise UserError(f"{text!r} has {key} twice; expected it once")
        values[key] = value
    values = _DEFAULTS | values
    rand = kind == "rand"
    return {
        "semantics": "timm",
        "autoaugment": None if rand else kind,
        "randaugment_layers": values["n"] if rand else 0,
        "randaugment_magnitude": float(values["m"]) if rand else None,
        "randaugment_rate": values["p"] if rand else 1.0,
        "randaugment_noise": values["mstd"],
        "randaugment_increasing": bool(values["inc"]),
    }


def _parse_part(text: str, part: str, known: tuple[str, ...]) -> tuple[str, float]:
    """Name and value of a part such as ``mstd0.5``."""
    where = f"{text!r} has the part {part!r}"
    if part.startswith(("t", "w")) and "m" in known:
        raise UserError(
            f"{where}: other sets of operations and weighted choices are not "
            "supported; leave it out"
        )
    match = re.fullmatch(r"(\D+)(\d.*)", part)
    if match is None or match[1] not in known:
        names = ", ".join(known)
        raise UserError(f"{where}; expected one of {names}, with a number after it")
    key, number = match.groups()
    whole = isinstance(_DEFAULTS[key], int)
    try:
        value = int(number) if whole else float(number)
    except ValueError as error:
        kind = "a whole number" if whole else "a number"
        raise UserError(f"{where}; expected {kind} after {key}") from error
    if key == "p" and value > 1:
        raise UserError(f"{where}; expected a probability, 0 to 1, after p")
    if key == "mmax" and value != _MAX_MAGNITUDE:
        raise UserError(
            f"{where}; only mmax10 is supported, timm's default: leave it out"
        )
    return key, value


def _check_policy(name: str, *others: str) -> str:
    known = (*others, *POLICIES)
    if name not in known:
        raise UserError(
            f"the augmentation policy is {name!r}; expected {', '.join(known)}"
        )
    return name
