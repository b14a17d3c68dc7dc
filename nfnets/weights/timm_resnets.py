"""The modules of ResNets and ResNet-RS in timm, in its order."""

from __future__ import annotations

from collections.abc import Sequence

from nfnets.weights.module_names import ModuleNames, Modules


def _branch(squeeze_excite: str, shortcut: Sequence[str]) -> Modules:
    """Both kinds of blocks: the basic one has no third convolution."""
    convs = {
        f"{ours}{i}": f"{theirs}{i + 1}"
        for i in range(3)
        for ours, theirs in (("conv", "conv"), ("bn", "bn"))
    }
    conv, norm = shortcut
    return {
        **convs,
        "squeeze_excite/reduce": f"{squeeze_excite}.fc1",
        "squeeze_excite/expand": f"{squeeze_excite}.fc2",
        "conv_shortcut": f"downsample.{conv}",
        "shortcut_bn": f"downsample.{norm}",
    }


def _resnet(stem: Sequence[str], shortcut: Sequence[str]) -> ModuleNames:
    """``stem``: names of convolution and BatchNorm in turns."""
    ours = ("stem_conv{}", "stem_bn{}")
    return ModuleNames(
        before={ours[i % 2].format(i // 2): name for i, name in enumerate(stem)},
        block=lambda stage, block: f"layer{stage + 1}.{block}.",
        kinds=(_branch("se", shortcut),),
        after={"head": "fc"},
    )


_DEEP_STEM = ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1")

# Shell pattern of model names -> timm's names.
RESNETS: dict[str, ModuleNames] = {
    "resnet_rs_*": _resnet((*_DEEP_STEM, "maxpool.0", "maxpool.1"), "12"),
    "resnet50d": _resnet(_DEEP_STEM, "12"),
    "senet154": ModuleNames(
        before={
            f"stem_{ours}{i}": f"layer0.{ours}{i + 1}"
            for i in range(3)
            for ours in ("conv", "bn")
        },
        block=lambda stage, block: f"layer{stage + 1}.{block}.",
        kinds=(_branch("se_module", "01"),),
        after={"head": "last_linear"},
    ),
    **dict.fromkeys(
        ("resnet[0-9]*", "seresnet50", "resnext50_32x4d"),
        _resnet(("conv1", "bn1"), "01"),
    ),
}
