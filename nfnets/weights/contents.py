"""What a file of weights is: its form, whose names it has, which models it fits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nfnets.errors import UserError
from nfnets.registry import count_blocks, list_models
from nfnets.weights.descriptions import read_description, sha256_of
from nfnets.weights.files import MAX_RATIO, read_arrays
from nfnets.weights.naming import Naming, convert, count_blocks_in, naming_of
from nfnets.weights.readers import Kind, import_safetensors, kind_of
from nfnets.weights.writing import local_path


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
      path: the file.
      kind: its form.
      sha256: of its bytes.
      arrays: all, under the file's own names, as they are stored.
      naming: whose names these are; None for none that we know.
      description: of the ``.json`` beside it; None where there is none.
      header: what else a ``.safetensors`` says of itself.
    """

    path: Path
    kind: Kind
    sha256: str
    arrays: Mapping[str, np.ndarray]
    naming: Naming | None
    description: Mapping[str, Any] | None
    header: Mapping[str, str]


def read_contents(path: str | os.PathLike[str]) -> Contents:
    """Reads a file of weights whose model need not be known.

    Raises:
      UserError: it holds no weights, is damaged, or unpacks to far more than it is.
    """
    file = local_path(path)
    kind = kind_of(file)
    arrays = read_arrays(file, kind, MAX_RATIO * file.stat().st_size)
    is_ours = kind == "safetensors"
    return Contents(
        path=file,
        kind=kind,
        sha256=sha256_of(file),
        arrays=arrays,
        naming=naming_of(arrays),
        description=read_description(file) if is_ours else None,
        header=_header(file) if is_ours else {},
    )


def misfit(
    contents: Contents, model_name: str, overrides: Mapping[str, Any] = {}
) -> str | None:
    """Why the arrays are not those of a model; None where they are."""
    if contents.naming is None:
        return "its names are neither ours nor timm's, Keras's or DeepMind's"
    try:
        convert(contents.naming, model_name, contents.arrays, overrides=overrides)
    except UserError as error:
        return str(error)
    return None


def fitting_models(contents: Contents) -> list[str]:
    """Our models, as their rows are, with these arrays.

    Only those with as many blocks are looked at, since the shapes of a deep network
    take seconds.
    """
    if contents.naming is None:
        return []
    blocks = count_blocks_in(contents.naming, contents.arrays)
    candidates: Iterable[str] = list_models()
    if blocks is not None:
        candidates = [name for name in candidates if count_blocks(name) == blocks]
    return [name for name in candidates if misfit(contents, name) is None]


def _header(path: Path) -> dict[str, str]:
    with import_safetensors().safe_open(path, framework="np") as file:
        return dict(file.metadata() or {})
