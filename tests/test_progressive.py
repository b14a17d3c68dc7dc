"""Progressive learning: the stages of paper and code, and what is refused."""

from __future__ import annotations

import dataclasses
import threading

import jax
import numpy as np
import pytest
from helpers import plain_augment, recipe_of, tiny_recipe, with_changes

from nfnets import flops
from nfnets.errors import UserError
from nfnets.training import loop, parallel, workdir
from nfnets.training.compiled_steps import Compiled, CompiledSteps, abstract_batch
from nfnets.training.optimizer import make_optimizer
from nfnets.training.recipe import Recipe
from nfnets.training.stages import Stage, image_sizes, interpolate, stage_ends
from nfnets.training.state import init_state
from nfnets.training.steps import make_train_step

RELEASED = ("b0", "b1", "b2", "b3", "s", "m", "l", "xl")


@pytest.mark.parametrize("size", RELEASED)
def test_stages_of_the_released_code(size, golden):
    """Its RandAugment levels of B0 to B3 have no effect beside AutoAugment."""
    expected = golden("effnetv2_stages")["stages"][f"efficientnetv2-{size}"]
    recipe = recipe_of(f"effnetv2_{size}")
    stages = recipe.stages
    assert recipe.total_steps == 107336
    assert [stage.image_size for stage in stages] == expected["sizes"]
    assert [end for _, end in stage_ends(stages)] == expected["max_steps"]
    for field in ("mixup_alpha", "cutmix_alpha"):
        alphas = [getattr(stage.augment, field) for stage in stages]
        assert alphas == pytest.approx(expected["mix_alpha"], rel=1e-12)
    assert {stage.drop_rate for stage in stages} == {expected["dropout_const"]}
    assert recipe.eval_image_size == expected["eval"]
    if expected["aug"] == "randaug":
        magnitudes = [stage.augment.randaugment_magnitude for stage in stages]
        assert magnitudes == pytest.approx(expected["ram"], rel=1e-12)
        assert {stage.augment.randaugment_layers for stage in stages} == {2}
    else:
        assert {stage.augment.autoaugment for stage in stages} == {"v0"}


# Table 6 of the paper with Algorithm 1: sizes, magnitudes, mixup, dropout.
PAPER = {
    "s": ([128, 185, 242, 300], [5, 25 / 3, 35 / 3, 15], [0] * 4, (0.1, 0.3)),
    "m": ([128, 212, 296, 380], [5, 10, 15, 20], [0, 1 / 15, 2 / 15, 0.2], (0.1, 0.4)),
    "l": (
        [128, 212, 296, 380],
        [5, 35 / 3, 55 / 3, 25],
        [0, 1 / 6, 1 / 3, 0.5],
        (0.1, 0.5),
    ),
}


@pytest.mark.parametrize("size", PAPER)
def test_stages_of_the_paper(size):
    sizes, magnitudes, mixups, drop_rates = PAPER[size]
    stages = recipe_of(f"effnetv2_{size}_paper").stages
    assert [stage.image_size for stage in stages] == sizes
    found = [stage.augment.randaugment_magnitude for stage in stages]
    assert found == pytest.approx(magnitudes)
    assert [stage.augment.mixup_alpha for stage in stages] == pytest.approx(mixups)
    assert {stage.augment.cutmix_alpha for stage in stages} == {0}
    assert (stages[0].drop_rate, stages[-1].drop_rate) == drop_rates
    steps = [stage.steps for stage in stages]
    assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("size", ["b0", "b3"])
def test_the_papers_small_models_had_no_progression(size):
    recipe = recipe_of(f"effnetv2_{size}_paper")
    assert len(recipe.stages) == 1
    assert recipe.overrides == {"bn_momentum": 0.99}


@pytest.mark.parametrize(
    "name", ["effnetv2_b0", "effnetv2_s_paper", "effnetv2_b1_21k", "effnetv2_b0_ft"]
)
def test_the_step_of_the_largest_stage_has_consistent_shapes(name):
    """Traced only; all configs of the family were, by hand."""
    recipe = dataclasses.replace(recipe_of(name), batch_size=8)
    stage = max(recipe.stages, key=lambda stage: stage.image_size)
    model = recipe.create_model()
    shapes = flops.abstract_variables(model, 64)
    tx = make_optimizer(recipe, shapes["params"])
    state = jax.eval_shape(lambda v: init_state(v, tx, keep_ema=True), shapes)
    step = make_train_step(model, tx, recipe, parallel.AXIS, stage=stage)
    after, metrics = jax.eval_shape(
        parallel.pmap_train_step(step), state, abstract_batch(recipe, stage)
    )
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(
        lambda x: x.shape, state
    )
    assert metrics["loss"].shape == ()


def test_linear_interpolation_by_hand():
    assert interpolate(5, 15, 3) == [5, 10, 15]
    assert interpolate(None, 15, 3) == [15, 15, 15]
    assert interpolate(5, 15, 1) == [15]
    assert image_sizes(128, 300, 4, False) == [128, 185, 242, 300]
    assert image_sizes(128, 300, 4, True) == [171, 214, 257, 300]
    assert image_sizes(None, 224, 4, False) == [224] * 4


def progressive(**changes) -> Recipe:
    changes = {f"progressive__{key}": value for key, value in changes.items()}
    return Recipe.from_config(tiny_recipe(**changes).to_dict())


def test_any_recipe_can_be_progressive():
    recipe = with_changes(
        recipe_of("nfnet_f1"),
        progressive__stages=2,
        progressive__image_size=128,
        progressive__randaugment_magnitude=5.0,
    )
    sizes = [stage.image_size for stage in recipe.stages]
    magnitudes = [stage.augment.randaugment_magnitude for stage in recipe.stages]
    assert (sizes, magnitudes) == ([128, 224], [5, 10])
    assert sum(stage.steps for stage in recipe.stages) == recipe.total_steps


def test_random_sizes_follow_the_seed():
    recipe = progressive(
        stages=4, image_size=2, drop_rate=0.0, order="random", random_epochs=2.0
    )
    recipe = dataclasses.replace(recipe, drop_rate=0.3)
    stages = recipe.stages  # 25 epochs: twelve draws of two and one of one
    assert len(stages) == 13
    assert sum(stage.steps for stage in stages) == recipe.total_steps
    assert {stage.image_size for stage in stages} <= {2, 4, 6, 8}
    assert len({stage.image_size for stage in stages}) > 1
    ends = [end for _, end in stage_ends(stages)]
    epochs = np.array(ends[:-1]) / recipe.steps_per_epoch
    np.testing.assert_allclose(epochs, np.arange(2, 26, 2), atol=0.1)
    for stage in stages:  # the regularisation goes with the size
        assert stage.drop_rate == pytest.approx((stage.image_size - 2) / 6 * 0.3)
    assert recipe.stages == stages
    other = dataclasses.replace(recipe, seed=1).stages
    assert [s.image_size for s in other] != [s.image_size for s in stages]


def test_a_run_shorter_than_its_stages_leaves_some_out():
    recipe = progressive(stages=4, image_size=2)
    recipe = dataclasses.replace(recipe, num_epochs=0.05)
    assert recipe.total_steps == 2
    assert [(s.steps, s.image_size) for s in recipe.stages] == [(1, 4), (1, 8)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": 0}, "progressive.stages is 0, expected 1 or more"),
        ({"stages": 4}, "stages is 4, but no value of the first stage is given"),
        ({"image_size": 4}, "stages is 1, .*config.progressive.image_size is 4"),
        ({"order": "random"}, "stages is 1, .*config.progressive.order is random"),
        (
            {"stages": 2, "image_size": 4, "order": "random"},
            "random_epochs is None with config.progressive.order random",
        ),
        (
            {"stages": 2, "image_size": 4, "random_epochs": 8.0},
            "random_epochs is 8.0 with config.progressive.order increasing",
        ),
        (
            {"stages": 2, "image_size": 4, "order": "random", "random_epochs": 0.0},
            "random_epochs is 0.0, it must be positive",
        ),
        ({"stages": 2, "image_size": 0}, "progressive.image_size is 0, expected 1"),
        ({"stages": 2, "drop_rate": 1.0}, "drop_rate is 1.0, expected 0 .* below 1"),
        ({"stages": 2, "mixup_alpha": -1.0}, "mixup_alpha is -1.0, expected 0 or"),
        (
            {"stages": 2, "randaugment_magnitude": 5.0},
            "randaugment_magnitude is 5.0, but the recipe has no RandAugment",
        ),
        (
            {"stages": 2, "drop_rate": 0.1, "skip_first_size": True},
            "skip_first_size is True without config.progressive.image_size",
        ),
        ({"order": "falling"}, "config.progressive.order is 'falling'"),
    ],
)
def test_what_is_no_progression_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        progressive(**changes)


def stages_of(*sizes):
    return [Stage(n, size, plain_augment(), 0.0) for n, size in enumerate(sizes, 1)]


def test_each_setting_is_compiled_once():
    compiled, said = [], []

    def compile_stage(stage):
        compiled.append(stage.image_size)
        return Compiled(step=stage.image_size, seconds=1.0)

    steps = CompiledSteps(compile_stage)
    first, second, third = stages_of(8, 4, 8)
    assert steps.get(first, lambda: False, said.append) == 8
    steps.start(second, said.append)
    assert steps.get(second, lambda: False, said.append) == 4
    assert steps.get(third, lambda: False, said.append) == 8
    assert compiled == [8, 4]
    assert said == [
        "compile  1.0 s at 8 px",
        "compile  1.0 s in the background, waited 0.0 s at 4 px",
    ]


def test_a_failed_compilation_is_said_at_once_and_raised_when_it_is_needed():
    said = []

    def compile_stage(stage):
        raise RuntimeError("out of memory")

    steps = CompiledSteps(compile_stage)
    (stage,) = stages_of(13)
    steps.start(stage, said.append)
    with pytest.raises(RuntimeError, match="out of memory"):
        steps.get(stage, lambda: False, said.append)
    assert said == ["compile  failed at 13 px: out of memory"]


def test_waiting_for_the_compiler_ends_when_asked_to_stop():
    go_on = threading.Event()

    def compile_stage(stage):
        assert go_on.wait(60)
        return Compiled(step=1, seconds=1.0)

    steps = CompiledSteps(compile_stage)
    (stage,) = stages_of(8)
    assert steps.get(stage, lambda: True, str) is None
    go_on.set()
    assert steps.get(stage, lambda: False, str) == 1


def test_a_step_that_cannot_be_compiled_loses_no_steps(tmp_path, monkeypatch):
    """The second stage's; stages of 7 and 8 steps, and no checkpoint is due before."""
    real = loop.compile_step

    def compile_step(stage, **run):
        if stage.image_size == 8:
            raise RuntimeError("too large")
        return real(stage, **run)

    recipe = tiny_recipe(
        batch_size=360,
        num_epochs=4.0,
        checkpoint_every_steps=100,
        eval__every_epochs=4.0,
        progressive__stages=2,
        progressive__image_size=4,
    )
    with monkeypatch.context() as patch:
        patch.setattr(loop, "compile_step", compile_step)
        with pytest.raises(RuntimeError, match="too large"):
            loop.train_and_evaluate(recipe, tmp_path, log=str)
    assert (tmp_path / "checkpoints" / "7").is_dir()
    assert loop.train_and_evaluate(recipe, tmp_path, log=str).complete
    steps = [r["step"] for r in workdir.read_rows(tmp_path) if "train/loss" in r]
    assert steps == [2, 4, 6, 8, 10, 12, 14, 15]
