"""What several tests need: recipes by config name, a tiny network, its data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nfnets.training.config_files import load_config
from nfnets.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
CONFIG_DIR = ROOT / "experiments" / "configs"

# A network with every part of an NFNet, small enough to compile in seconds.
TINY = {
    "depths": (1, 1),
    "widths": (16, 32),
    "strides": (1, 2),
    "stem_channels": (8, 8, 8),
    "stem_strides": (1, 1, 1, 1),
    "group_size": 8,
}


def recipe_of(name: str, **changes: Any) -> Recipe:
    """The recipe of a named config with changed fields; "optim.momentum" as optim__."""
    recipe = Recipe.from_config(load_config(name, CONFIG_DIR))
    return with_changes(recipe, **changes)


def with_changes(recipe: Recipe, **changes: Any) -> Recipe:
    """``with_changes(recipe, seed=1, optim__momentum=0.0)``."""
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        if inner:
            value = dataclasses.replace(getattr(recipe, outer), **{inner: value})
        recipe = dataclasses.replace(recipe, **{outer: value})
    return recipe


def tiny_recipe(**changes: Any) -> Recipe:
    """The digits recipe on the tiny network, without randomness in the network."""
    plain = {
        "model_overrides": TINY,
        "drop_rate": 0.0,
        "stochastic_depth_rate": 0.0,
        "batch_size": 24,
        "log_every_steps": 2,
    }
    return recipe_of("digits", **(plain | changes))
