"""Whether arrays are those of a network: the same names, the same shapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nfnets.errors import UserError


def check_names(
    model_name: str,
    wanted: Mapping[str, tuple[int, ...]],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Checks arrays against the shapes that a network has, by name.

    Raises:
      UserError: some are missing, unexpected or of another shape; names a few.
    """
    problems = {
        "missing": sorted(wanted.keys() - arrays.keys()),
        "unexpected": sorted(arrays.keys() - wanted.keys()),
        "wrong shape": [
            f"{name} {np.shape(arrays[name])} instead of {shape}"
            for name, shape in wanted.items()
            if name in arrays and np.shape(arrays[name]) != shape
        ],
    }
    found = [
        f"{len(bad)} {what}: {', '.join(bad[:4])}{', ...' if len(bad) > 4 else ''}"
        for what, bad in problems.items()
        if bad
    ]
    if found:
        raise UserError(f"not the weights of {model_name}: {'; '.join(found)}")
