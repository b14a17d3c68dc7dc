"""Parameters by the regexes of a recipe, searched in paths like "stem_conv0/kernel"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax

from nfnets.errors import UserError


def path_str(path: tuple[Any, ...]) -> str:
    """A key path as the "stage1_block0/conv0/kernel" that the regexes match."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_mask(params: Any, exclude: Sequence[str]) -> Any:
    """Tree of bools: False where one of the regexes is found in a parameter's path.

    Args:
      params: parameter tree; only its paths are read.
      exclude: regexes, searched (not anchored) in "a/b/kernel" paths.

    Raises:
      UserError: a regex is none, or matches no parameter, which would silently change
        a group.
    """
    paths = [path_str(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for regex in exclude:
        try:
            re.compile(regex)
        except re.error as error:
            raise UserError(f"the pattern {regex!r} is none: {error}") from error
        if not any(re.search(regex, path) for path in paths):
            raise UserError(
                f"the pattern {regex!r} matches no parameter of this model; its paths "
                f"look like {paths[0]} and {paths[-1]}"
            )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any(re.search(r, path_str(path)) for r in exclude), params
    )
