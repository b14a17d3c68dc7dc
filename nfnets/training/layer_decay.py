"""Layer-wise decay of the learning rate, for fine-tuning (BEiT, arXiv 2106.08254).

The classifier has the whole rate, and each layer before it the next one's times the
decay. Layers are timm's: the stem is one, every block is one, and so is the classifier;
what stands between the last block and the classifier (a convolution, BatchNorm or
LayerNorm) is in the last block's. timm can also keep the factor from falling below a
floor, which is 0 unless asked for; there is none here.
"""

from __future__ import annotations

import math
import re
from typing import Any

import jax

from nfnets.errors import UserError
from nfnets.training.parameter_paths import path_str

# The first part of a path; bias1 and bias2 are Fixup's.
_STEM = re.compile(r"stem_\w+|patch_embed|cls_token|pos_embed|bias1")
_BLOCK = re.compile(r"(?:stage(\d+)_)?block(\d+)")
_AFTER_LAST_BLOCK = re.compile(r"final_\w+|bias2")

# A layer, in the order from image to classifier: (stage, block) of blocks.
Layer = tuple[float, float]
STEM, LAST_BLOCK, HEAD = (-1, 0), (math.inf, 0), (math.inf, 1)


def layer_of(path: str) -> Layer:
    """Which layer a parameter is in; ``LAST_BLOCK`` for what comes after the blocks.

    Args:
      path: as in "stage1_block0/conv0/kernel", of any registered model.

    Raises:
      UserError: the path is of no known layer.
    """
    module = path.split("/")[0]
    if _STEM.fullmatch(module):
        return STEM
    if block := _BLOCK.fullmatch(module):
        return int(block[1] or 0), int(block[2])
    if _AFTER_LAST_BLOCK.fullmatch(module):
        return LAST_BLOCK
    if module == "head":
        return HEAD
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
    layers = {layer_of(path_str(path)) for path, _ in leaves} - {LAST_BLOCK, HEAD}
    factors = {
        layer: decay**above
        for above, layer in enumerate(sorted(layers, reverse=True), start=1)
    }
    factors |= {LAST_BLOCK: decay, HEAD: 1.0}
    return jax.tree_util.tree_map_with_path(
        lambda path, _: factors[layer_of(path_str(path))], params
    )
