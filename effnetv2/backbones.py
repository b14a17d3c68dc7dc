"""The network that a search starts from: of the registry, a small one, a file's."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effnetv2.blocks import round_filters
from effnetv2.scaling import scale_stages
from nfnets import registry
from nfnets.errors import UserError, did_you_mean
from nfnets.training.typed_config import from_mapping


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Where a search starts, and what its networks share.

    Attributes:
      name: for the report.
      model: of the registry; its row has all but what follows.
      stages: block strings, scaled already.
      overrides: other fields of the model's row.
    """

    name: str
    model: str
    stages: tuple[str, ...]
    overrides: Mapping[str, Any]


# For 32-pixel images and two CPU cores: EfficientNet's pattern, narrow; at 16 pixels
# after the stem, 4 at the end.
_NARROW = Backbone(
    name="narrow",
    model="effnetv2_b0",
    stages=(
        "r1_k3_s1_e1_i16_o8_se0.25",
        "r2_k3_s2_e4_i8_o16_se0.25",
        "r2_k3_s2_e4_i16_o24_se0.25",
        "r2_k5_s1_e6_i24_o40_se0.25",
        "r1_k3_s1_e6_i40_o48_se0.25",
    ),
    overrides={"stem_stride": 2, "head_channels": 128},
)
_FILE_EXAMPLE = '{"stages": ["r1_k3_s1_e1_i16_o8_se0.25", ...], "overrides": {}}'


def load_backbone(text: str) -> Backbone:
    """The backbone of a name or of a JSON file.

    Args:
      text: ``effnet_b4`` (the paper's), any other EfficientNet of the registry,
        ``narrow``, or the path of a file ``{"stages": [...], "overrides": {...},
        "model": NAME}``, of which the last two may be left out.

    Raises:
      UserError: there is no such thing, or the file is bad.
    """
    if text == _NARROW.name:
        return _NARROW
    names = _names()
    if text in names:
        return _from_registry(text)
    if text.endswith(".json"):
        return _from_file(Path(text))
    known = [_NARROW.name, *names]
    raise UserError(
        f"unknown backbone {text!r}, and no FILE.json; {did_you_mean(text, known)}"
    )


def _names() -> list[str]:
    """The EfficientNets of the registry whose stages stand in their row as they are."""
    names = registry.list_models("effnet*")
    return [n for n in names if registry.get_variant(n).fused_stages == 0]


def _from_registry(name: str) -> Backbone:
    row = registry.get_variant(name)
    stages = scale_stages(
        row.stages,
        row.width,
        row.depth,
        scale_stem=True,
        upper_limit=row.round_up_limit,
    )
    head = round_filters(row.head_channels, row.width, upper_limit=row.round_up_limit)
    scaled = {"width": 1.0, "depth": 1.0, "head_channels": head}
    return Backbone(name=name, model=name, stages=stages, overrides=scaled)


def _from_file(path: Path) -> Backbone:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the backbone {path}: {error}") from error
    if not isinstance(values, dict) or "stages" not in values:
        raise UserError(f"{path}: expected {_FILE_EXAMPLE}")
    defaults = {"name": path.stem, "model": "effnetv2_b0", "overrides": {}}
    backbone = from_mapping(Backbone, defaults | values, "backbone")
    if backbone.model not in _names():
        hint = did_you_mean(backbone.model, _names())
        raise UserError(f"{path}: unknown model {backbone.model!r}; {hint}")
    return backbone
