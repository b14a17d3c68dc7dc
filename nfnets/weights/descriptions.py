"""``NAME.json`` beside ``NAME.safetensors``: of what model it is, and its sha256."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfnets.errors import UserError
from nfnets.registry import get_variant

FORMAT_VERSION = 1
_MAX_BYTES = 2**20


def description_path(path: Path) -> Path:
    """``NAME.json`` of ``NAME.safetensors``."""
    return path.with_suffix(".json")


def describe(
    model_name: str,
    overrides: Mapping[str, Any],
    *,
    num_classes: int,
    parameters: int,
    sha256: str,
    metadata: Mapping[str, str | int | float],
) -> bytes:
    """The content of a description; raises UserError for metadata of other types."""
    for key, value in metadata.items():
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if not isinstance(key, str) or not (is_number or isinstance(value, str)):
            raise UserError(
                f"metadata {key!r} is {value!r}, it should be a string or a number"
            )
    description = {
        "format_version": FORMAT_VERSION,
        "model": model_name,
        "model_overrides": dict(overrides),
        "num_classes": num_classes,
        "parameters": parameters,
        "sha256": sha256,
        "metadata": dict(metadata),
    }
    return (json.dumps(description, indent=2, allow_nan=False) + "\n").encode()


def read_description(path: Path) -> dict[str, Any] | None:
    """What is said of a file of weights; None where nothing lies beside it.

    Raises:
      UserError: what lies there describes no weights, or is of another version.
    """
    description = description_path(path)
    if not description.exists():
        return None
    try:
        with description.open("rb") as file:
            content: dict[str, Any] = json.loads(file.read(_MAX_BYTES))
        version, _, _ = (content[k] for k in ("format_version", "model", "sha256"))
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(
            f"{description} does not describe weights ({type(error).__name__}); get it "
            f"again, or remove it to read {path.name} unchecked"
        ) from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{description} has the format version {str(version)[:20]}, this program "
            f"reads {FORMAT_VERSION}; use a newer one"
        )
    return content


def described_model(path: Path) -> tuple[str, dict[str, Any]] | None:
    """The model of a file of weights, and the changed fields of its row; or None.

    Raises:
      UserError: as `read_description`.
    """
    content = read_description(path)
    if content is None:
        return None
    model, overrides = str(content["model"]), content.get("model_overrides", {})
    fields = {field.name for field in dataclasses.fields(get_variant(model))}
    if not isinstance(overrides, dict) or not overrides.keys() <= fields:
        raise UserError(
            f"{description_path(path)}: its model_overrides should be fields of {model}"
        )
    return model, overrides


def check_description(path: Path, model_name: str) -> None:
    """Checks a file against the description beside it, if there is one."""
    content = read_description(path)
    if content is None:
        return
    model, expected = content["model"], content["sha256"]
    if model != model_name:
        raise UserError(
            f"{path} holds the weights of {str(model)[:60]!r}, not of {model_name}"
        )
    found = sha256_of(path)
    if found != expected:
        raise UserError(
            f"{path} is not the file that {description_path(path).name} describes: its "
            f"sha256 is {found[:12]}..., not {str(expected)[:12]}...; get both again"
        )


def sha256_of(path: Path) -> str:
    """Of the bytes of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
