"""The picture of the first batch: what the network sees, and nothing disturbed."""

import io
import types
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from helpers import tiny_recipe
from PIL import Image

from nfnets.data.effnetv2_mixing import mix
from nfnets.errors import UserError
from nfnets.training import samples
from nfnets.training.between_steps import show_samples


def test_images_are_those_of_the_step():
    """Mixed on each of two devices with the key that the step folds for it."""
    recipe = tiny_recipe(
        augment__mixing="effnetv2", augment__mixup_alpha=0.5, batch_size=8, seed=3
    )
    stage = recipe.stages[0]
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 4, 8, 8, 3), np.uint8),
        "label": rng.integers(0, 10, (2, 4), np.int32),
    }
    images, labels = samples.seen_by_network(batch, recipe, stage, step=5, count=6)
    assert images.shape == (6, 8, 8, 3)
    for device, rows in ((0, [0, 1, 2, 3]), (1, [0, 2])):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 5), device)
        mix_key, *_ = jax.random.split(key, 3)
        float_images = batch["image"][device].astype(np.float32)
        want = mix(float_images, batch["label"][device], mix_key, stage.augment)
        place = slice(4 * device, 4 * device + len(rows))
        shown = np.rint(np.asarray(want[0])[rows]).astype(np.int16)
        assert np.abs(images[place] - shown).max() <= 1  # rounding
        found = np.array(labels[place])
        for i, values in enumerate(want[1:]):
            np.testing.assert_allclose(found[:, i], np.asarray(values)[rows], rtol=1e-6)


def test_labels_of_mixed_images_have_shares():
    names = ("cat", "dog")
    assert samples.label_text(0, 1, 1.0, names) == "cat"
    assert samples.label_text(0, 0, 0.3, names) == "cat"
    assert samples.label_text(0, 1, 0.001, names) == "dog"
    assert samples.label_text(0, 1, 0.3, names) == "70% dog\n30% cat"


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (32, 4)])
def test_the_grid_shows_every_pixel_of_small_images(count, rows):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    picture = np.asarray(samples.grid_of(images, ["a long name" * 9] * count, "title"))
    row_height = samples.SIDE + samples.LABEL_HEIGHT
    assert picture.shape[0] == samples.TITLE_HEIGHT + rows * row_height + samples.GAP
    y = samples.TITLE_HEIGHT + (rows - 1) * row_height
    x = samples.GAP + (count - 1) % samples.COLUMNS * (samples.SIDE + samples.GAP)
    last = picture[y : y + samples.SIDE, x : x + samples.SIDE]
    np.testing.assert_array_equal(last[::16, ::16], images[-1])


def test_it_is_drawn_once_and_cannot_end_training(tmp_path, monkeypatch):
    recipe, said = tiny_recipe(batch_size=4), []
    run = types.SimpleNamespace(
        recipe=recipe,
        directory=epath.Path(tmp_path),
        train_source=types.SimpleNamespace(class_names=tuple("0123456789")),
    )
    position = types.SimpleNamespace(step=7)
    trainer: Any = types.SimpleNamespace(
        run=run, position=position, progress=types.SimpleNamespace(say=said.append)
    )
    batch = {
        "image": np.full((1, 4, 8, 8, 3), 100, np.uint8),
        "label": np.arange(4, dtype=np.int32)[None],
    }
    path = tmp_path / "samples.png"
    show_samples(trainer, recipe.stages[0], batch)
    drawn = path.read_bytes()
    width, height = Image.open(io.BytesIO(drawn)).size
    assert width > 4 * samples.SIDE
    assert height > samples.SIDE
    path.write_bytes(b"of step 1")
    show_samples(trainer, recipe.stages[0], batch)
    assert path.read_bytes() == b"of step 1"
    position.step = 0  # another run's, whose directory was taken over
    show_samples(trainer, recipe.stages[0], batch)
    assert path.read_bytes() != b"of step 1"

    def full(path, content):
        raise UserError("the disk is full")

    monkeypatch.setattr(samples, "write_atomically", full)
    show_samples(trainer, recipe.stages[0], batch)
    assert said == ["no samples.png: the disk is full"]
