"""What papers and official repositories print about these networks, and where.

Each number stands here as it is printed, so that its digits say how far it can be
compared; README, model cards and ``experiments/models.py`` take it from here. Numbers
that were remembered from a paper, or counted by running its official code, are marked
by the kind of their source. What has no source is left out.
"""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Source:
    """Where numbers are from.

    ``kind``: "published" was read there; "counted" was computed by running the official
    code, which prints no such number; "memory" was not checked against the source.
    """

    name: str
    url: str
    kind: Literal["published", "counted", "memory"] = "published"


@dataclasses.dataclass(frozen=True)
class Published:
    """The numbers that one source has about one network; None where it has none."""

    model: str
    source: Source
    params_m: Decimal | None  # millions
    gmacs: Decimal | None  # billions of multiply-adds, the papers' "FLOPs"
    activations_m: Decimal | None  # millions, as `nfnets.flops` counts them
    top1: Decimal | None  # percent of ImageNet's validation images
    training: str  # what trained the weights of top1, where the source has several
    image_size: int | None  # pixels, of all numbers but params; None is the test size
    why: str  # why a number differs from our count by more than its rounding


def published(model: str) -> tuple[Published, ...]:
    """All that is known of a model, the source of its released weights first."""
    return tuple(row for row in PUBLISHED if row.model == model)


def headline(model: str) -> Published | None:
    """The first published row with an accuracy, or None."""
    rows = (r for r in published(model) if r.source.kind == "published")
    return next((r for r in rows if r.top1 is not None), None)


def _row(
    model: str,
    source: Source,
    params: str | None = None,
    gmacs: str | None = None,
    *,
    top1: str | None = None,
    acts: str | None = None,
    training: str = "",
    px: int | None = None,
    why: str = "",
) -> Published:
    return Published(
        model=model,
        source=source,
        params_m=None if params is None else Decimal(params),
        gmacs=None if gmacs is None else Decimal(gmacs),
        activations_m=None if acts is None else Decimal(acts),
        top1=None if top1 is None else Decimal(top1),
        training=training,
        image_size=px,
        why=why,
    )


_GITHUB = "https://github.com"
_TPU = f"{_GITHUB}/tensorflow/tpu/blob/master/models/official"
_TIMM = f"{_GITHUB}/huggingface/pytorch-image-models/blob/main/results"
_V2 = "https://arxiv.org/abs/2104.00298"
_NFNETS = f"{_GITHUB}/google-deepmind/deepmind-research/tree/master/nfnets"

NFNETS = Source("NFNets README", _NFNETS)
NFNETS_CODE = Source("NFNets code, run", _NFNETS, "counted")
AUTOML = Source(
    "automl README", f"{_GITHUB}/google/automl/blob/master/efficientnetv2/README.md"
)
V2_TABLE_3 = Source("EfficientNetV2, Table 3", _V2)
V2_TABLE_7 = Source("EfficientNetV2, Table 7", _V2)
V2_MEMORY = Source("EfficientNetV2, Table 7", _V2, "memory")
TPU = Source("tpu README", f"{_TPU}/efficientnet/README.md")
RS = Source("ResNet-RS README", f"{_TPU}/resnet/resnet_rs/README.md")
GARDEN = Source(
    "Model Garden",
    f"{_GITHUB}/tensorflow/models/blob/master/official/vision/MODEL_GARDEN.md",
)
PYCLS = Source("pycls zoo", f"{_GITHUB}/facebookresearch/pycls/blob/main/MODEL_ZOO.md")
DEIT = Source("DeiT README", f"{_GITHUB}/facebookresearch/deit")
TIMM = Source("timm results", f"{_TIMM}/results-imagenet.csv")
TIMM_COUNTS = Source(
    "timm benchmark", f"{_TIMM}/benchmark-infer-amp-nchw-pt240-cu124-rtx3090.csv"
)

_MAPS = "the official counter has fractional feature maps"
_UNSAID = "not explained: what the source counts is not said"
_L = "its code makes 118.5 M, 119.0 M with BatchNorm's statistics; FLOPs not explained"
_FIT = "neither kernels nor SE are published; ours is the choice that comes nearest"
_PAPER = "from memory; the released code's README differs from the paper, too"
_MEMORY = "from memory, not checked"
_MOVING = "with BatchNorm's moving statistics"
_FLOOR = "rounded down there"
_BN = "also counts BatchNorm, 2 per number"
_LN = "also counts LayerNorm, 5 per number"
_WS = "also counts weight standardisation, 5 per weight"

PUBLISHED: tuple[Published, ...] = (
    _row("nfnet_f0", NFNETS, "71.5", "12.38", top1="83.6"),
    _row("nfnet_f1", NFNETS, "132.6", "35.54", top1="84.7"),
    _row("nfnet_f2", NFNETS, "193.8", "62.59", top1="85.1"),
    _row("nfnet_f3", NFNETS, "254.9", "114.76", top1="85.7"),
    _row("nfnet_f4", NFNETS, "316.1", "215.24", top1="85.9"),
    _row("nfnet_f5", NFNETS, "377.2", "289.76", top1="86.0"),
    _row("nfnet_f6", NFNETS, "438.4", "377.28", top1="86.5", training="SAM"),
    _row("nfnet_f7", NFNETS_CODE, "499.504088", "478.782"),
    _row("nfnet_f0_plus", NFNETS_CODE, "118.824516", "19.520"),
    _row("nfnet_f1_plus", NFNETS_CODE, "220.357008", "55.445"),
    _row("nfnet_f2_plus", NFNETS_CODE, "321.889500", "97.275"),
    _row("nfnet_f3_plus", NFNETS_CODE, "423.421992", "177.987"),
    _row("nfnet_f4_plus", NFNETS_CODE, "524.954484", "333.390"),
    _row("nfnet_f5_plus", NFNETS_CODE, "626.486976", "448.427"),
    _row("nfnet_f6_plus", NFNETS_CODE, "728.019468", "583.517"),
    _row("nfnet_f7_plus", NFNETS_CODE, "829.551960", "740.158"),
    _row("nf_regnet_b0", NFNETS_CODE, "8.595372", "0.444"),
    _row("nf_regnet_b1", NFNETS_CODE, "10.019208", "0.734"),
    _row("nf_regnet_b2", NFNETS_CODE, "13.785904", "1.099", why=_MAPS),
    _row("nf_regnet_b3", NFNETS_CODE, "18.136667", "1.999"),
    _row("nf_regnet_b4", NFNETS_CODE, "29.315830", "4.467"),
    _row("nf_regnet_b5", NFNETS_CODE, "48.707138", "10.561", why=_MAPS),
    _row("nf_regnet_b6", NFNETS_CODE, "70.045805", "19.687", why=_MAPS),
    _row("nf_regnet_b7", NFNETS_CODE, "101.743204", "37.448", why=_MAPS),
    _row("nf_regnet_b8", NFNETS_CODE, "142.314441", "63.719"),
    _row("nf_resnet50", NFNETS_CODE, "25.557048"),
    _row("nf_resnet101", NFNETS_CODE, "44.549193"),
    _row("nf_resnet152", NFNETS_CODE, "60.192858"),
    _row("nf_resnet200", NFNETS_CODE, "64.673898"),
    _row("nf_resnet288", NFNETS_CODE, "146.460552"),
    _row("nf_resnet600", NFNETS_CODE, "300.646896"),
    _row("nf_seresnet50", NFNETS_CODE, "35.635704"),
    _row("nf_seresnet101", NFNETS_CODE, "63.562505"),
    _row("nf_seresnet152", NFNETS_CODE, "86.565402"),
    _row("nf_seresnet200", NFNETS_CODE, "93.153834"),
    _row("effnetv2_s", AUTOML, "21.5", "8.4", top1="83.9"),
    _row("effnetv2_m", AUTOML, "54.1", "24.7", top1="85.2", why=_UNSAID),
    _row("effnetv2_l", AUTOML, "119.5", "56.3", top1="85.7", why=_L),
    _row("effnetv2_b0", AUTOML, "7.1", "0.72", top1="78.7"),
    _row("effnetv2_b1", AUTOML, "8.1", "1.2", top1="79.8"),
    _row("effnetv2_b2", AUTOML, "10.1", "1.7", top1="80.5"),
    _row("effnetv2_b3", AUTOML, "14.4", "3.0", top1="82.1"),
    _row("effnetv2_s", AUTOML, top1="84.9", training="21k"),
    _row("effnetv2_m", AUTOML, top1="86.2", training="21k"),
    _row("effnetv2_l", AUTOML, top1="86.9", training="21k"),
    _row("effnetv2_xl", AUTOML, top1="87.2", training="21k"),
    _row("effnetv2_s", V2_TABLE_7, top1="83.9"),
    _row("effnetv2_m", V2_TABLE_7, top1="85.1"),
    _row("effnetv2_l", V2_TABLE_7, top1="85.7"),
    _row("effnetv2_s", V2_TABLE_7, top1="84.9", training="21k"),
    _row("effnetv2_m", V2_TABLE_7, top1="86.2", training="21k"),
    _row("effnetv2_l", V2_TABLE_7, top1="86.8", training="21k"),
    _row("effnetv2_xl", V2_TABLE_7, top1="87.3", training="21k"),
    _row("effnetv2_s", V2_MEMORY, "22", "8.8", why=_PAPER),
    _row("effnetv2_m", V2_MEMORY, "54", "24", why=_PAPER),
    _row("effnetv2_l", V2_MEMORY, "120", "53", why=_PAPER),
    _row("effnetv2_xl", V2_MEMORY, "208", "94", why=_PAPER),
    _row("effnet_b3", V2_MEMORY, "12", "1.9", why=_MEMORY),
    _row("effnet_b4", V2_MEMORY, "19", "4.2", why=_MEMORY),
    _row("effnet_b5", V2_MEMORY, "30", "10"),
    _row("effnet_b6", V2_MEMORY, "43", "19"),
    _row("effnet_b7", V2_MEMORY, "66", "38"),
    _row("effnet_b0", TPU, top1="77.1", training="AutoAugment"),
    _row("effnet_b1", TPU, top1="79.1", training="AutoAugment"),
    _row("effnet_b2", TPU, top1="80.1", training="AutoAugment"),
    _row("effnet_b3", TPU, top1="81.6", training="AutoAugment"),
    _row("effnet_b4", TPU, top1="82.9", training="AutoAugment"),
    _row("effnet_b5", TPU, top1="83.6", training="AutoAugment"),
    _row("effnet_b6", TPU, top1="84.0", training="AutoAugment"),
    _row("effnet_b7", TPU, top1="84.3", training="AutoAugment"),
    _row("effnet_b8", TPU, top1="85.5", training="AdvProp"),
    _row("effnet_b4", V2_TABLE_3, "19.3", "4.5", top1="82.8", why=_UNSAID),
    _row("effnet_b4_fused_1_3", V2_TABLE_3, "20.0", "7.5", top1="83.1", why=_FIT),
    _row("effnet_b4_fused_1_5", V2_TABLE_3, "43.4", "21.3", top1="83.1", why=_FIT),
    _row("effnet_b4_fused_1_7", V2_TABLE_3, "132.0", "34.4", top1="81.7", why=_FIT),
    _row("resnet18", TIMM, top1="71.504", training="A1"),
    _row("resnet34", TIMM, top1="76.420", training="A1"),
    _row("resnet50", TIMM, top1="80.382", training="A1"),
    _row("resnet101", TIMM, top1="81.494", training="A1"),
    _row("resnet152", TIMM, top1="81.998", training="A1"),
    _row("resnet50d", TIMM, top1="80.730", training="A1"),
    _row("seresnet50", TIMM, top1="80.012", training="A1"),
    _row("resnext50_32x4d", TIMM, top1="80.526", training="A1"),
    _row("resnet_rs_50", RS, top1="78.8", px=160),
    _row("resnet_rs_101", RS, top1="80.3", px=160),
    _row("resnet_rs_101", RS, top1="81.2", px=192),
    _row("resnet_rs_152", RS, top1="82.0", px=192),
    _row("resnet_rs_152", RS, top1="82.2", px=224),
    _row("resnet_rs_152", RS, top1="83.0", px=256),
    _row("resnet_rs_200", RS, top1="83.4", px=256),
    _row("resnet_rs_270", RS, top1="83.8", px=256),
    _row("resnet_rs_350", RS, top1="84.0", px=256),
    _row("resnet_rs_350", RS, top1="84.2", px=320),
    _row("resnet_rs_420", RS, top1="84.4", px=320),
    _row("resnet_rs_50", GARDEN, "35.7"),
    _row("resnet_rs_101", GARDEN, "63.7", why=_MOVING),
    _row("resnet_rs_152", GARDEN, "86.8", why=_MOVING),
    _row("resnet_rs_200", GARDEN, "93.4", why=_MOVING),
    _row("resnet_rs_270", GARDEN, "130.1", why=_MOVING),
    _row("resnet_rs_350", GARDEN, "164.3", why=_MOVING),
    _row("regnety_4gf", PYCLS, "20.6", "4.0", top1="79.4", acts="12.3"),
    _row("regnety_8gf", PYCLS, "39.2", "8.0", top1="79.9", acts="18.0"),
    _row("regnety_16gf", PYCLS, "83.6", "15.9", top1="80.4", acts="23.0"),
    _row("regnety_32gf", PYCLS, "145.0", "32.3", top1="81.0", acts="30.3"),
    _row("deit_ti", DEIT, "5", top1="72.2", why=_FLOOR),
    _row("deit_s", DEIT, "22", top1="79.9"),
    _row("vit_b", DEIT, "86", top1="81.8", why=_FLOOR),
    _row("nfnet_f0", TIMM_COUNTS, "71.49", "12.62", acts="18.05", why=_WS),
    _row("nfnet_f1", TIMM_COUNTS, "132.63", "35.97", acts="46.77", why=_WS),
    _row("nfnet_f2", TIMM_COUNTS, "193.78", "63.22", acts="79.06", why=_WS),
    _row("nfnet_f3", TIMM_COUNTS, "254.92", "115.58", acts="141.78", why=_WS),
    _row("nfnet_f4", TIMM_COUNTS, "316.07", "216.26", acts="262.26", why=_WS),
    _row("nfnet_f5", TIMM_COUNTS, "377.21", "290.97", acts="349.71", why=_WS),
    _row("nfnet_f6", TIMM_COUNTS, "438.36", "378.69", acts="452.20", why=_WS),
    _row("nfnet_f7", TIMM_COUNTS, "499.50", "480.39", acts="570.85", why=_WS),
    _row("effnetv2_b0", TIMM_COUNTS, "7.14", "0.73", acts="4.77", why=_BN),
    _row("effnetv2_b1", TIMM_COUNTS, "8.14", "1.21", acts="7.34", why=_BN),
    _row("effnetv2_b2", TIMM_COUNTS, "10.10", "1.72", acts="9.84", why=_BN),
    _row("effnetv2_b3", TIMM_COUNTS, "14.36", "3.04", acts="15.74", why=_BN),
    _row("effnetv2_s", TIMM_COUNTS, "21.46", "8.44", acts="35.77", why=_BN),
    _row("effnetv2_m", TIMM_COUNTS, "54.14", "24.76", acts="89.84", why=_BN),
    _row("effnetv2_l", TIMM_COUNTS, "118.52", "56.40", acts="157.99", why=_BN),
    _row("effnetv2_xl", TIMM_COUNTS, "208.12", "93.85", acts="247.32", why=_BN),
    _row("effnet_b0", TIMM_COUNTS, "5.29", "0.40", acts="6.75", why=_BN),
    _row("effnet_b1", TIMM_COUNTS, "7.79", "0.71", acts="10.88", why=_BN),
    _row("effnet_b2", TIMM_COUNTS, "9.11", "1.02", acts="13.83", why=_BN),
    _row("effnet_b3", TIMM_COUNTS, "12.23", "1.87", acts="23.83", why=_BN),
    _row("effnet_b4", TIMM_COUNTS, "19.34", "4.49", acts="49.49", why=_BN),
    _row("effnet_b5", TIMM_COUNTS, "30.39", "10.46", acts="98.86", why=_BN),
    _row("effnet_b6", TIMM_COUNTS, "43.04", "19.40", acts="167.39", why=_BN),
    _row("effnet_b7", TIMM_COUNTS, "66.35", "38.33", acts="289.94", why=_BN),
    _row("effnet_b8", TIMM_COUNTS, "87.41", "63.48", acts="442.89", why=_BN),
    _row("effnet_l2", TIMM_COUNTS, "480.31", "479.12", acts="1707.39", why=_BN),
    _row("resnet18", TIMM_COUNTS, "11.69", "1.82", acts="2.48", why=_BN),
    _row("resnet34", TIMM_COUNTS, "21.80", "3.67", acts="3.74", why=_BN),
    _row("resnet50", TIMM_COUNTS, "25.56", "4.11", acts="11.11", why=_BN),
    _row("resnet101", TIMM_COUNTS, "44.55", "7.83", acts="16.23", why=_BN),
    _row("resnet152", TIMM_COUNTS, "60.19", "11.56", acts="22.56", why=_BN),
    _row("resnet50d", TIMM_COUNTS, "25.58", "4.35", acts="11.92", why=_BN),
    _row("seresnet50", TIMM_COUNTS, "28.09", "4.11", acts="11.13", why=_BN),
    _row("resnext50_32x4d", TIMM_COUNTS, "25.03", "4.26", acts="14.40", why=_BN),
    _row("senet154", TIMM_COUNTS, "115.09", "20.77", acts="38.69", why=_BN),
    _row("resnet_rs_50", TIMM_COUNTS, "35.69", "2.29", acts="6.20", why=_BN),
    _row("resnet_rs_101", TIMM_COUNTS, "63.62", "6.04", acts="12.70", px=192, why=_BN),
    _row("resnet_rs_152", TIMM_COUNTS, "86.62", "15.59", acts="30.83", px=256, why=_BN),
    _row("resnet_rs_200", TIMM_COUNTS, "93.21", "20.18", acts="43.42", why=_BN),
    _row("resnet_rs_270", TIMM_COUNTS, "129.86", "27.06", acts="55.84", why=_BN),
    _row(
        "resnet_rs_350", TIMM_COUNTS, "163.96", "43.67", acts="87.09", px=288, why=_BN
    ),
    _row("resnet_rs_420", TIMM_COUNTS, "191.89", "64.20", acts="126.56", why=_BN),
    _row("regnety_4gf", TIMM_COUNTS, "20.65", "4.00", acts="12.29", why=_BN),
    _row("regnety_8gf", TIMM_COUNTS, "39.18", "8.00", acts="17.97", why=_BN),
    _row("regnety_16gf", TIMM_COUNTS, "83.59", "15.96", acts="23.04", why=_BN),
    _row("regnety_32gf", TIMM_COUNTS, "145.05", "32.34", acts="30.26", why=_BN),
    _row("deit_ti", TIMM_COUNTS, "5.72", "1.26", acts="5.97", why=_LN),
    _row("deit_s", TIMM_COUNTS, "22.05", "4.61", acts="11.95", why=_LN),
    _row("vit_b", TIMM_COUNTS, "86.57", "17.58", acts="23.90", why=_LN),
)
