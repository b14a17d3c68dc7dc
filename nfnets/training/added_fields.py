"""Fields that recipes got after runs had been started, so that old runs go on."""

from __future__ import annotations

import copy
from typing import Any

# By dotted path, the value that means what runs did before the field was there. Add a
# line with every new field of a recipe.
ADDED_FIELDS: dict[str, Any] = {
    "remat": False,
    "optim.frozen": [],
    "optim.layer_decay": None,
}


def with_added_fields(config: dict[str, Any]) -> dict[str, Any]:
    """A stored recipe with the fields that it could not have; others stay missing.

    Args:
      config: nested plain values, as ``config.json`` has them.
    """
    complete = copy.deepcopy(config)
    for path, value in ADDED_FIELDS.items():
        *parents, field = path.split(".")
        part: Any = complete
        for parent in parents:
            part = part.get(parent) if isinstance(part, dict) else None
        if isinstance(part, dict) and part:
            part.setdefault(field, copy.copy(value))
    return complete
