"""Counts that others computed, by model: what every golden file has of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def outside_counts(golden: Callable[[str], Any], model: str) -> tuple[int, dict] | None:
    """Parameters, and multiply-adds by image size where any are known; or None."""
    for file in ("nfnet_counts", "resnet_timm"):
        if model in golden(file):
            counts = golden(file)[model]
            macs = counts.get("macs", {})
            return counts["params"], {int(px): n for px, n in macs.items()}
    if model in golden("timm_regnet_vit")["counts"]:
        counts = golden("timm_regnet_vit")["counts"][model]
        return counts["params"], {224: counts["macs_224"]}
    counts = golden("effnetv2_counts")
    name, _, last = model.partition("_fused_1_")
    if last:
        params, gmacs = counts["fused"]["fit"][last]
        return round(params * 1e6), {counts[name]["eval_size"]: gmacs * 1e9}
    if model in counts:
        gmacs = counts[model]["gmacs"]
        return counts[model]["params"], {counts[model]["eval_size"]: gmacs * 1e9}
    return None  # the official repository has no SE form of the deepest NF-ResNets
