"""Layer-wise decay of the learning rate, for fine-tuning (BEiT, arXiv 2106.08254).

The classifier has the whole rate, and each layer before it the next one's times the
decay. Layers are counted as in timm's ``group_matcher``: the stem is one, every block
is one, so is what stands between the last block and the classifier (a convolution,
BatchNorm or LayerNorm), and the classifier. timm can also keep the factor from falling
below a floor, which is 0 unless asked for; there is none here.
"""

from __future__ import annotations

import re
from typing import Any

import jax

from nfnets.errors import UserError
from nfnets.training.parameter_paths import path_str

# From the image to the classifier; numbers order the blocks. bias1 and bias2: Fixup's.
_MODULES = (
    r"stem_\w+|patch_embed|cls_token|pos_embed|bias1",
    r"(?:stage(\d+)_)?block(\d+)",
    r"final_\w+|bias2",
    r"head",
)


def layer_of(path: str) -> tuple[int, ...]:
    """Which layer a parameter is in, as a tuple that sorts from image to classifier.

    Args:
      path: as in "stage1_block0/conv0/kernel", of any registered model.

    Raises:
      UserError: the path is of no known layer.
    """
    module = path.split("/")[0]
    for place, pattern in enumerate(_MODULES):
        if match := re.fullmatch(pattern, module):
            return place, *(int(number or 0) for number in match.groups())
    raise UserError(
        f"config.optim.layer_decay does not know which layer {path} is in: modules of "
        f"a network are called stem_..., stageI_blockJ, blockJ, final_... and head"
    )


def layer_factors(params: Any, decay: float) -> Any:
    """Factors of the learning rate: decay^(D - d) in layer d of 0 to D.

    Args:
      params: parameter tree; only its paths are read.
      decay: in (0, 1].

    Returns:
      A tree of floats, 1 in the classifier.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    order = sorted({layer_of(path_str(path)) for path, _ in leaves})
    last = len(order) - 1
    return jax.tree_util.tree_map_with_path(
        lambda path, _: decay ** (last - order.index(layer_of(path_str(path)))), params
    )
