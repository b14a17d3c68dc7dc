"""Predicts the classes of image files that have no labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets.data.decode import DamagedImage
from nfnets.data.image_files import open_images
from nfnets.data.normalization import normalize
from nfnets.data.pipeline import make_eval_iter
from nfnets.errors import UserError
from nfnets.training import parallel
from nfnets.training.evaluation import round_up
from nfnets.training.tested_weights import Tested, check_size


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a network takes an image for.

    Attributes:
      path: of the file.
      labels: the likeliest classes, the first one first; none of a damaged image.
      probabilities: of each of them.
      damage: why the image cannot be read; None where it can.
    """

    path: str
    labels: tuple[int, ...]
    probabilities: tuple[float, ...]
    damage: str | None = None


def make_predict_step(
    model: Any, top_k: int, normalization: str, axis_name: str = parallel.AXIS
) -> Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]]:
    """The step (variables, batch) -> the likeliest classes of all devices' images.

    The batch is one device's share, "image" float32 [B, S, S, 3]. Returns "label" int32
    and "probability" float32, [D, B, top_k] each. Probabilities are the softmax of the
    logits, whatever the training loss.
    """

    def predict_step(variables: Any, batch: dict[str, jax.Array]) -> Any:
        images = normalize(batch["image"], normalization)
        logits = model.apply(variables, images, train=False)
        best, labels = jax.lax.top_k(jax.nn.softmax(logits), top_k)
        own = {"label": labels, "probability": best}
        return jax.lax.all_gather(own, axis_name)

    return predict_step


def predict(
    tested: Tested, paths: Sequence[str], *, prefix: str, top_k: int
) -> Iterator[list[Prediction]]:
    """Predicts batch by batch, in the order of the files.

    All batches have one shape, so the step is compiled once.

    Args:
      tested: the weights, and the recipe that says how images are prepared.
      paths: at least one.
      prefix: which weights: "eval", or "eval_ema" the moving average.
      top_k: classes per image; all of them where there are fewer.

    Raises:
      UserError: settings that do not fit.
    """
    if top_k < 1:
        raise UserError(f"--top_k is {top_k}; expected 1 or more classes per image")
    recipe = tested.recipe.for_source(num_classes=tested.num_classes)
    model = recipe.create_model().clone(dtype=jnp.float32)
    variables = tested.by_prefix[prefix]
    check_size(model, variables, recipe.eval_image_size)
    step = parallel.pmap_eval_step(
        make_predict_step(
            model, min(top_k, tested.num_classes), recipe.data.normalization
        )
    )
    placed = parallel.place_state(variables)
    damaged: dict[int, DamagedImage] = {}
    batches = make_eval_iter(
        open_images(paths, damaged),
        crop=recipe.eval_crop,
        image_size=recipe.eval_image_size,
        batch_size=round_up(
            min(recipe.eval.batch_size, len(paths)), parallel.num_devices()
        ),
        num_devices=parallel.num_devices(),
        threads=recipe.data.threads,
    )
    first = 0
    with batches:
        for host_batch in batches:
            images = {"image": host_batch["image"]}
            found = parallel.fetch(step(placed, parallel.place_batch(images)))
            count = int(host_batch["mask"].sum())
            yield [
                _prediction(paths[first + i], damaged.get(first + i), found, i)
                for i in range(count)
            ]
            first += count


def _prediction(
    path: str, damage: DamagedImage | None, found: dict[str, np.ndarray], row: int
) -> Prediction:
    if damage is not None:
        return Prediction(path, (), (), damage.reason)
    labels, probabilities = (
        found[name].reshape(-1, found[name].shape[-1])[row].tolist()
        for name in ("label", "probability")
    )
    return Prediction(path, tuple(labels), tuple(probabilities))
