"""What the labels of a network mean: the names of its classes, for people."""

from __future__ import annotations

from collections.abc import Callable

from etils import epath

from nfnets.data.imagenet_classes import imagenet_names, readable
from nfnets.errors import UserError
from nfnets.training import workdir
from nfnets.training.recipe import Recipe
from nfnets.training.run_data import open_split


def class_names(
    run: epath.Path | None,
    recipe: Recipe,
    num_classes: int,
    log: Callable[[str], None],
) -> tuple[str, ...]:
    """The names by label: the run's, else those of the recipe's data, else numbers.

    WordNet ids of ImageNet-1k become names ("n01440764" tench).

    Args:
      run: a work directory; runs made before names were stored have none, nor have
        files of weights (None).
      recipe: names the data.
      num_classes: K, of the network.
      log: is told why there are numbers.

    Raises:
      UserError: the run's own names are damaged.
    """
    names = None if run is None else workdir.read_class_names(run)
    source, trouble = f"{run}/{workdir.CLASSES}", ""
    if names is None:
        source = recipe.data.source
        names, trouble = _names_of_data(recipe)
    if len(names) == num_classes:
        return readable(names)
    counts = f"{source} has {len(names)} classes, the network {num_classes}"
    log(f"note     labels are shown as numbers: {trouble or counts}")
    return tuple(str(label) for label in range(num_classes))


def _names_of_data(recipe: Recipe) -> tuple[tuple[str, ...], str]:
    """The names by label; or none, and why there are none."""
    spec = recipe.data.source
    if spec.startswith("tfds:imagenet2012"):  # known, so that it need not be there
        return imagenet_names(), ""
    if spec.startswith("hf:"):  # to open it may be to download it
        return (), f"{spec} is not fetched for the names of its classes alone"
    try:
        return open_split(recipe, "test").class_names, ""
    except UserError as error:
        return (), " ".join(str(error).split())
