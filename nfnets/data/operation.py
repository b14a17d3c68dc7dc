"""One operation of RandAugment or AutoAugment, with everything about it drawn.

The policies draw operations; a backend applies them. So what happens to an image does
not depend on who computes it.
"""

from __future__ import annotations

from typing import NamedTuple


class Operation(NamedTuple):
    """What is done to an image.

    Attributes:
        name: as in the papers, e.g. ``ShearX``.
        argument: its strength in the operation's own unit, with its sign.
        row: of Cutout's centre, as a share of the height in [0, 1).
        column: of Cutout's centre, as a share of the width.
        kernel: of geometric operations: ``nearest``, ``bilinear`` or ``bicubic``.
    """

    name: str
    argument: float = 0.0
    row: float = 0.0
    column: float = 0.0
    kernel: str = "nearest"
