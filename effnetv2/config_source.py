"""A recipe as the source of a config file, which ``experiments/run.py`` accepts."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from nfnets.training.recipe import Recipe


def config_source(recipe: Recipe, docstring: str) -> str:
    """Python source of a config file; ``run.py --config=FILE.py`` gives the recipe.

    Args:
      recipe: any.
      docstring: of the file, one line.
    """
    lines = [
        f'"""{docstring}"""',
        "",
        "from ml_collections import ConfigDict, config_dict",
        "",
        'VARIANTS = ("",)',
        "",
        "",
        'def get_config(variant: str = "") -> ConfigDict:',
        "    config = ConfigDict()",
        *_assignments(recipe, "config"),
        "    return config",
        "",
    ]
    return "\n".join(lines)


def _assignments(part: Any, path: str) -> Iterator[str]:
    hints = typing.get_type_hints(type(part))
    for field in dataclasses.fields(part):
        value, name = getattr(part, field.name), f"{path}.{field.name}"
        if dataclasses.is_dataclass(value):
            yield f"    {name} = ConfigDict()"
            yield from _assignments(value, name)
        elif isinstance(value, Mapping):
            yield f"    {name} = ConfigDict({dict(value)!r})"
        elif value is None:
            # Typed, so that the command line can set it.
            kinds = [
                k for k in typing.get_args(hints[field.name]) if k is not type(None)
            ]
            yield f"    {name} = config_dict.placeholder({kinds[0].__name__})"
        else:
            yield f"    {name} = {value!r}"
