"""The data of a run: opened, described, and the same everywhere and after a restart."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from nfnets import registry
from nfnets.data.backends import choose_backend
from nfnets.data.sources import Source, open_source
from nfnets.errors import UserError
from nfnets.training import checkpoint, parallel, processes
from nfnets.training.recipe import Recipe
from nfnets.versions import versions


def open_split(recipe: Recipe, split: str) -> Source:
    """Opens ``train``, ``test`` or ``holdout`` of the recipe's data."""
    return open_source(
        recipe.data.source,
        split,
        class_map=recipe.data.class_map,
        num_classes=recipe.data.num_classes,
        data_dir=recipe.data.data_dir,
        holdout=recipe.data.holdout,
    )


def describe_data(
    recipe: Recipe, label_sets: np.ndarray | None, train: Source, test: Source
) -> str:
    """One line on the data, for the log and the report."""
    note = f"; {test.note}" if test.note else ""
    if label_sets is not None:
        note += f"; up to {label_sets.shape[1]} labels an image"
    return (
        f"{recipe.data.source}: {len(train)} training and {len(test)} test images, "
        f"{recipe.num_classes} classes{note}"
    )


def digest_of(label_sets: np.ndarray | None) -> str | None:
    """Sha256 of the table, which follows from the file and the names of the classes."""
    return None if label_sets is None else checkpoint.digest(label_sets)


def digest_of_code() -> str:
    """Sha256 of the Python files of our packages, by name, wherever they lie."""
    digest = hashlib.sha256()
    for package in sorted({family.partition(".")[0] for family in registry.FAMILIES}):
        spec = importlib.util.find_spec(package)  # does not import it
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for file in sorted(root.rglob("*.py")):
            text = file.read_bytes()
            digest.update(f"{file.relative_to(root)} {len(text)}\n".encode())
            digest.update(text)
    return digest.hexdigest()


def check_same_everywhere(
    recipe: Recipe, label_sets: np.ndarray | None, *sources: Source
) -> None:
    """Raises a UserError unless all processes have these settings and data."""
    processes.check_same(
        {
            "config": recipe.to_dict(),
            "code": digest_of_code(),
            "package versions": versions(),
            "number of devices": len(parallel.devices()),
            "input backend": choose_backend(recipe.data.backend),
            "data": [hashlib.sha256(s.labels.tobytes()).hexdigest() for s in sources],
            "label sets": digest_of(label_sets),
        }
    )


def check_label_sets(
    recipe: Recipe, label_sets: np.ndarray | None, trained_with: str | None, step: int
) -> None:
    """Checks that the labels are those of the steps before a restart.

    Args:
      recipe: names the file.
      label_sets: as read now.
      trained_with: ``digest_of`` those that the steps were made with.
      step: the last one.

    Raises:
      UserError: they are others.
    """
    if trained_with != digest_of(label_sets):
        raise UserError(
            f"the label sets {recipe.data.label_sets}, or the names of the classes, "
            f"are not those that this run was trained with up to step {step}; restore "
            f"the file, or use another --workdir"
        )
