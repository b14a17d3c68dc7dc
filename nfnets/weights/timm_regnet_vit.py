"""The modules of RegNetY and of the vision transformers in timm, in its order."""

from __future__ import annotations

from nfnets.weights.module_names import ModuleNames, Modules


def _conv_and_norm(ours: str, norm: str, theirs: str) -> Modules:
    return {ours: f"{theirs}.conv", norm: f"{theirs}.bn"}


REGNET = ModuleNames(
    before=_conv_and_norm("stem_conv", "stem_bn", "stem"),
    block=lambda stage, block: f"s{stage + 1}.b{block + 1}.",
    kinds=(
        {
            **_conv_and_norm("conv1", "bn1", "conv1"),
            **_conv_and_norm("conv2", "bn2", "conv2"),
            "squeeze_excite/reduce": "se.fc1",
            "squeeze_excite/expand": "se.fc2",
            **_conv_and_norm("conv3", "bn3", "conv3"),
            **_conv_and_norm("shortcut_conv", "shortcut_bn", "downsample"),
        },
    ),
    after={"head": "head.fc"},
)

VIT = ModuleNames(
    # The network's own parameters: the class token and the position embedding.
    before={"": "", "patch_embed": "patch_embed.proj"},
    block=lambda _, block: f"blocks.{block}.",
    kinds=(
        {
            "norm1": "norm1",
            "attention/qkv": "attn.qkv",
            "attention/proj": "attn.proj",
            "norm2": "norm2",
            "mlp/fc1": "mlp.fc1",
            "mlp/fc2": "mlp.fc2",
        },
    ),
    after={"final_norm": "norm", "head": "head"},
)
