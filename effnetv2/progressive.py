"""Progressive learning of EfficientNetV2: the stage tables of paper and code.

The mechanism (arXiv 2104.00298, Sec. 4 and Algorithm 1) works for any network and
recipe and is in ``nfnets.training.stages``; here are the numbers it is fed with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Progression:
    """First and last values of a network's M = 4 stages, linear in between.

    Attributes:
      image_size: S_0 and S_e, pixels.
      randaugment_magnitude: out of 10; None: the network has no RandAugment.
      mixup_alpha: of Beta(alpha, alpha); 0 is none.
      cutmix_alpha: likewise.
      drop_rate: dropout before the classifier.
      stages: M.
      skip_first_size: whether the sizes are those after S_0 only, as in the code.
    """

    image_size: tuple[int, int]
    randaugment_magnitude: tuple[float, float] | None
    mixup_alpha: tuple[float, float]
    cutmix_alpha: tuple[float, float]
    drop_rate: tuple[float, float]
    stages: int = 4
    skip_first_size: bool = False


def _released(
    size: int, drop_rate: float, magnitude: float | None = None, alpha: float = 0.0
) -> Progression:
    """A row of the released code, whose every network begins at 128 and level 5."""
    return Progression(
        image_size=(128, size),
        randaugment_magnitude=None if magnitude is None else (5.0, magnitude),
        mixup_alpha=(0.0, alpha),
        cutmix_alpha=(0.0, alpha),
        drop_rate=(drop_rate, drop_rate),
        skip_first_size=True,
    )


# As the released code trains (hparams and main loop of google/automl). Its dropout is
# constant: the list of the stages' rates is computed and not used. B0 to B3 have
# AutoAugment at every stage; XL has L's row, but was only ever trained on ImageNet-21k.
RELEASED: Mapping[str, Progression] = {
    "b0": _released(192, 0.2),
    "b1": _released(192, 0.2),
    "b2": _released(208, 0.3),
    "b3": _released(240, 0.3),
    "s": _released(300, 0.2, 10.0, 0.0),
    "m": _released(384, 0.3, 15.0, 0.2),
    "l": _released(384, 0.4, 20.0, 0.5),
    "xl": _released(384, 0.4, 20.0, 0.5),
}

# The paper's Table 6. It has no cutmix, and B0 to B3 were trained without progression.
PAPER: Mapping[str, Progression] = {
    "s": Progression((128, 300), (5.0, 15.0), (0.0, 0.0), (0.0, 0.0), (0.1, 0.3)),
    "m": Progression((128, 380), (5.0, 20.0), (0.0, 0.2), (0.0, 0.0), (0.1, 0.4)),
    "l": Progression((128, 380), (5.0, 25.0), (0.0, 0.5), (0.0, 0.0), (0.1, 0.5)),
}
