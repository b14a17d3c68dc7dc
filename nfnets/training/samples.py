"""samples.png: images of the first batch as the network sees them, and their labels."""

from __future__ import annotations

import io
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from nfnets.data.normalization import to_pixels
from nfnets.training.recipe import Recipe
from nfnets.training.stages import Stage
from nfnets.training.steps import network_input, step_keys
from nfnets.training.storage import write_atomically

COLUMNS, ROWS = 8, 4
# Of one image in the picture, in pixels; larger ones are scaled down to it.
SIDE, GAP, LABEL_HEIGHT, TITLE_HEIGHT = 128, 8, 36, 32


def draw_samples(
    path: epath.Path,
    host_batch: dict[str, np.ndarray],
    *,
    recipe: Recipe,
    stage: Stage,
    step: int,
    class_names: Sequence[str],
) -> None:
    """Draws up to 32 images of a batch, mixed and erased as the step does it.

    Args:
      path: of the PNG.
      host_batch: as the loader gives it, device axis first; it is not changed.
      recipe: for the seed and the normalisation.
      stage: that the batch is of.
      step: steps done before it.
      class_names: by label.

    Raises:
      UserError: it cannot be written.
    """
    images, labels = seen_by_network(host_batch, recipe, stage, step, COLUMNS * ROWS)
    texts = [label_text(*label, class_names) for label in labels]
    title = (
        f"{recipe.name}: {len(images)} of the {recipe.batch_size} images of step "
        f"{step + 1}, {stage.image_size} px, as the network sees them"
    )
    buffer = io.BytesIO()
    grid_of(images, texts, title).save(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def seen_by_network(
    host_batch: dict[str, np.ndarray],
    recipe: Recipe,
    stage: Stage,
    step: int,
    count: int,
) -> tuple[np.ndarray, list[tuple[int, int, float]]]:
    """Images of a batch after mixing and erasing, uint8 [N, S, S, 3].

    Devices are taken in turn until there are ``count`` images; of the last one, evenly
    spaced ones, since a half may be mixed in another way.

    Returns:
      The images, and for each its label, its partner's and the weight of the first.
    """
    mixed = jax.jit(
        lambda batch, device: network_input(
            batch, step_keys(recipe.seed, step, device), recipe, stage
        )
    )
    images: list[np.ndarray] = []
    labels: list[tuple[int, int, float]] = []
    for device in range(len(host_batch["label"])):
        share = {name: values[device] for name, values in host_batch.items()}
        pixels, *rest = jax.device_get(mixed(share, device))
        shown = min(len(pixels), count - len(images))
        rows = np.arange(shown) * len(pixels) // shown
        images += list(to_pixels(pixels[rows], recipe.data.normalization))
        columns = (values[rows].tolist() for values in rest)
        labels += list(zip(*columns, strict=True))
        if len(images) == count:
            break
    return np.stack(images), labels


def label_text(
    label: int, partner: int, weight: float, class_names: Sequence[str]
) -> str:
    """The label, or two lines with the labels of a mixed image and their shares."""
    (more, first), (less, second) = sorted(
        [(weight, label), (1 - weight, partner)], reverse=True
    )
    if first == second or less < 0.005:
        return class_names[first]
    return f"{more:.0%} {class_names[first]}\n{less:.0%} {class_names[second]}"


def grid_of(images: np.ndarray, texts: Sequence[str], title: str) -> Image.Image:
    """Images [N, S, S, 3] in rows, each with its text of up to two lines below."""
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // COLUMNS)
    width = max(COLUMNS // 2, columns) * (SIDE + GAP) + GAP
    height = TITLE_HEIGHT + rows * (SIDE + LABEL_HEIGHT) + GAP
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, 8), title, "black", ImageFont.load_default(14))
    font = ImageFont.load_default(12)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        x = GAP + i % COLUMNS * (SIDE + GAP)
        y = TITLE_HEIGHT + i // COLUMNS * (SIDE + LABEL_HEIGHT)
        picture.paste(_to_side(image), (x, y))
        for line, shown in enumerate(text.split("\n")):
            place = (x, y + SIDE + 2 + 14 * line)
            draw.text(place, _cut(shown, font), "black", font)
    return picture


def _to_side(image: np.ndarray) -> Image.Image:
    """A small image in whole squares of pixels, a large one smoothly scaled down."""
    small = image.shape[0] <= SIDE
    kernel = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize((SIDE, SIDE), kernel)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a text as fits below an image."""
    shown = text
    while font.getlength(shown) > SIDE and len(shown) > 1:
        shown = shown.removesuffix("…")[:-1] + "…"
    return shown
