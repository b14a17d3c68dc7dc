"""The fine-tuning recipes against what DeiT's author and the data sets' makers say."""

from __future__ import annotations

import pytest
from helpers import recipe_of

# Training images and classes, RSB's table of data sets (Food-101: its paper).
DATA = {
    "cifar10": (50_000, 10),
    "cifar100": (50_000, 100),
    "flowers102": (2_040, 102),
    "cars": (8_144, 196),
    "inaturalist2018": (437_513, 8_142),
    "inaturalist2019": (265_240, 1_010),
    "food101": (75_750, 101),
}
# DeiT's fine-tuning: optimizer, peak rate at its batch of 768, decay, epochs,
# stochastic depth, erasing.
SGD = ("sgd", 0.01, 1e-4, 1000, 0.0, 0.0)
ADAMW = ("adamw", 7.5e-5, 0.05, 360, 0.1, 0.1)
AS_DEIT = {"cifar10": SGD, "cifar100": SGD, "cars": SGD}
AS_DEIT |= {"inaturalist2018": ADAMW, "inaturalist2019": ADAMW}


@pytest.mark.parametrize("name", DATA)
def test_data_sets(name: str):
    recipe = recipe_of(f"transfer_{name}")
    assert (recipe.data.num_train, recipe.num_classes) == DATA[name]
    assert (recipe.train_image_size, recipe.eval_image_size) == (224, 224)
    assert recipe.optim.warmup_epochs == 5
    assert recipe.steps_per_epoch == DATA[name][0] // 768


@pytest.mark.parametrize("name", AS_DEIT)
def test_values_are_deit_s(name: str):
    recipe = recipe_of(f"transfer_{name}")
    optimizer, peak_lr, *rest = AS_DEIT[name]
    assert recipe.optim.name == optimizer
    assert recipe.peak_lr == pytest.approx(peak_lr, rel=1e-12)
    assert rest == [
        recipe.weight_decay,
        recipe.num_epochs,
        recipe.stochastic_depth_rate,
        recipe.augment.erase_rate,
    ]
    mixing = (recipe.augment.mixup_alpha, recipe.augment.cutmix_alpha)
    assert (recipe.label_smoothing, *mixing) == (0.1, 0.8, 1.0)


def test_the_learning_rate_goes_with_the_batch():
    recipe = recipe_of("transfer_cars", batch_size=96)
    assert recipe.peak_lr == pytest.approx(0.01 / 8, rel=1e-12)
