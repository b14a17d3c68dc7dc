"""Recipes: strict reading, formulas after overrides, and no field without a reader."""

import ast
import dataclasses
import json
import math

import pytest
from helpers import CONFIG_DIR, ROOT, recipe_of

from nfnets.errors import UserError
from nfnets.training.config_files import list_configs, load_config
from nfnets.training.recipe import Recipe
from nfnets.training.stages import Stage
from nfnets.training.typed_config import differences


@pytest.mark.parametrize("name", list_configs(CONFIG_DIR))
def test_every_config_is_a_recipe_that_survives_json(name):
    recipe = recipe_of(name)
    assert recipe.name == name
    assert Recipe.from_config(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert sum(stage.steps for stage in recipe.stages) == recipe.total_steps


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optim.momentun", 0.9, r"config\.optim\.momentun.*did you mean momentum"),
        ("batch_size", "many", r"config\.batch_size is 'many' \(str\), expected int"),
        ("optim.nesterov", 1, r"config\.optim\.nesterov is 1 \(int\), expected bool"),
        ("dtype", "float16", "expected one of 'float32', 'bfloat16'"),
        ("augment.crop_area", (0.1,), r"config\.augment\.crop_area is \(0\.1,\)"),
        ("dtype", "float16", r"config\.dtype is 'float16'"),
        ("label_smoothing", 1.0, r"config\.label_smoothing is 1\.0.*\[0, 1\)"),
        ("batch_size", 0, r"config\.batch_size is 0, it must be positive"),
        ("model", "nfnet_f9", r"unknown model 'nfnet_f9'.*nfnet_f"),
        ("optim.agc_clipping", -0.1, r"config\.optim\.agc_clipping is -0\.1"),
        ("optim.name", "rmsprop", r"config\.optim\.rms_decay is None.*rmsprop"),
        ("optim.rms_eps", 0.001, r"config\.optim\.rms_eps is 0\.001, which sgd has no"),
        ("optim.rms_decay", 1.0, r"config\.optim\.rms_decay is 1\.0.*\[0, 1\)"),
        (
            "optim.schedule",
            "exponential",
            r"decay_rate is None.*which needs",
        ),
        ("optim.decay_rate", 0.97, r"config\.optim\.decay_rate is 0\.97.*cosine"),
        ("optim.decay_epochs", 2.4, r"config\.optim\.decay_epochs is 2\.4.*cosine"),
        # jax.random.key takes 32 bits of it: key(2**32 + 1) is key(1).
        ("seed", 2**32, r"config\.seed is 4294967296, it must be below 2\*\*32"),
        ("num_epochs", math.inf, r"config\.num_epochs is inf, expected a finite"),
        ("ema_decay", math.nan, r"config\.ema_decay is nan, expected a finite"),
        (
            "augment.crop_area",
            (0.1, math.inf),
            r"config\.augment\.crop_area\[1\] is inf, expected a finite",
        ),
        ("model_overrides.alpha", math.inf, r"nfnet_f0: alpha=inf should be like 0\.2"),
        (
            "model_overrides.drop_rate",
            1.5,
            r"config\.model_overrides\.drop_rate is 1\.5.*\[0, 1\)",
        ),
        (
            "model_overrides.stochastic_depth_rate",
            3.0,
            r"config\.model_overrides\.stochastic_depth_rate is 3\.0.*\[0, 1\)",
        ),
        (
            "model_overrides.train_size",
            0,
            r"config\.model_overrides\.train_size is 0, it must be positive",
        ),
    ],
)
def test_bad_values_are_named_by_their_path(path, value, message):
    config = load_config("digits", CONFIG_DIR).to_dict()
    *outer, last = path.split(".")
    target = config
    for key in outer:
        target = target[key]
    target[last] = value
    with pytest.raises(UserError, match=message):
        Recipe.from_config(config)


RMSPROP = {"name": "rmsprop", "nesterov": False, "rms_decay": 0.9, "rms_eps": 1e-3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (RMSPROP | {"nesterov": True}, r"config\.optim\.nesterov is True.*rmsprop"),
        (RMSPROP | {"rms_eps": None}, r"config\.optim\.rms_eps is None.*rmsprop"),
        (RMSPROP | {"rms_eps": 0.0}, r"config\.optim\.rms_eps is 0\.0.*positive"),
        (
            {"schedule": "constant", "decay_rate": 0.97},
            r"config\.optim\.decay_rate is 0\.97, which constant has not",
        ),
        (
            {"schedule": "constant", "lr_end": 0.1},
            r"config\.optim\.lr_end is 0\.1, which the schedule constant has not",
        ),
        (
            {"schedule": "exponential", "decay_rate": 1.5, "decay_epochs": 1.0},
            r"config\.optim\.decay_rate is 1\.5, it must be at most 1",
        ),
    ],
)
def test_an_optimizer_s_fields_fit_together(changes, message):
    config = load_config("digits", CONFIG_DIR).to_dict()
    config["optim"] |= changes
    with pytest.raises(UserError, match=message):
        Recipe.from_config(config)
    config["optim"] |= RMSPROP | {
        "schedule": "exponential",
        "decay_rate": 0.97,
        "decay_epochs": 2.4,
        "lr_end": 0.0,
    }
    assert Recipe.from_config(config).optim.rms_decay == 0.9


@pytest.mark.parametrize(
    ("changes", "num_classes", "num_train", "message"),
    [
        ({}, 10, 1437, r"batch_size is 2048, but there are 1437 training images"),
        (
            {"bce_target_threshold": 0.005},
            10,
            5000,
            r"bce_target_threshold is 0\.005, below the 0\.01 .* of the 10 classes",
        ),
    ],
)
def test_a_recipe_must_fit_the_data(changes, num_classes, num_train, message):
    recipe = recipe_of("rsb_a1", **changes)
    with pytest.raises(UserError, match=message):
        recipe.for_source(num_classes=num_classes, num_train=num_train)


def test_steps_before_the_first_are_refused():
    recipe = recipe_of("rsb_pytorch", optim__step_epochs=(60.0, -30.0))
    with pytest.raises(UserError, match=r"step_epochs is .* must be positive"):
        Recipe.from_config(recipe.to_dict())


def test_min_steps_make_a_short_run_longer():
    """EfficientNetV2's fine-tuning: 15 epochs of CIFAR would be 1464 steps."""
    recipe = recipe_of("cifar10", batch_size=512, num_epochs=15.0)
    assert (recipe.data.num_train, recipe.total_steps) == (50000, 1464)
    assert recipe_of("cifar10", min_steps=10000, batch_size=512).total_steps == 10000
    assert recipe_of("nfnet_f0", min_steps=10000).total_steps == 112602


def test_missing_field_is_named():
    config = load_config("digits", CONFIG_DIR).to_dict()
    del config["optim"]["momentum"]
    with pytest.raises(UserError, match=r"config\.optim\.momentum is missing"):
        Recipe.from_config(config)


def test_variant_values_follow_the_model():
    """The official code keeps F0's level when only the variant is overridden."""
    config = load_config("nfnet_f0", CONFIG_DIR)
    assert recipe_of("nfnet_f0").stages[0].augment.randaugment_magnitude == 5
    config.model = "nfnet_f4"
    stage = Recipe.from_config(config).stages[0]
    assert (stage.augment.randaugment_magnitude, stage.drop_rate) == (15, 0.5)
    assert stage.image_size == 384


def test_nf_regnet_weight_decay_is_the_variants():
    """The official config adds 1e-5 a level to 5e-5, for B0 when it is overridden."""
    config = load_config("nf_regnet_b0", CONFIG_DIR)
    assert Recipe.from_config(config).weight_decay == 5e-5
    config.model = "nf_regnet_b4"
    assert Recipe.from_config(config).weight_decay == 9e-5
    config.model = config.reference_model = "nf_regnet_b7"
    with pytest.raises(UserError, match="weight_decay is None"):
        Recipe.from_config(config)


def test_any_model_under_any_recipe():
    """What the model's row lacks is the reference model's; overrides are not."""
    config = load_config("nfnet_f1", CONFIG_DIR)
    config.model = "nf_resnet50"
    stage = Recipe.from_config(config).stages[0]
    assert (stage.augment.randaugment_magnitude, stage.drop_rate) == (10, 0.0)
    config = load_config("digits", CONFIG_DIR)
    config.model = "nf_regnet_b0"
    assert Recipe.from_config(config).overrides == {}


def test_small_images_give_each_family_its_own_stem():
    config = load_config("cifar10_nfnet_f0", CONFIG_DIR)
    assert Recipe.from_config(config).variant.stem_strides == (1, 1, 1, 1)
    config.model = "nf_seresnet50"
    row = Recipe.from_config(config).variant
    assert (row.stem_kernel, row.stem_stride, row.stem_pool) == (3, 1, False)


def test_a_value_that_nobody_gives_is_asked_for():
    config = load_config("nfnet_f0", CONFIG_DIR)
    config.model = config.reference_model = "nf_resnet50"
    with pytest.raises(UserError, match="randaugment_magnitude is None"):
        Recipe.from_config(config)


def test_a_policy_string_of_timm_is_understood():
    """RSB's A2 and A3 use it; noise, rate and forms are in the string."""
    config = load_config("dm_resnet_50", CONFIG_DIR)
    config.augment.semantics = "timm"
    with config.ignore_type():
        config.augment.autoaugment = "rand-m7-mstd0.5-inc1"
    augment = Recipe.from_config(config).stages[0].augment
    assert augment.autoaugment is None
    assert (augment.randaugment_layers, augment.randaugment_magnitude) == (2, 7)
    assert (augment.randaugment_rate, augment.randaugment_noise) == (0.5, 0.5)
    assert augment.randaugment_increasing
    config.augment.autoaugment = "rand-m7-q5"
    with pytest.raises(UserError, match="q5"):
        Recipe.from_config(config)
    config.augment.semantics = "tf"
    with pytest.raises(UserError, match="the semantics tf have v0 only"):
        Recipe.from_config(config)


def test_differences_are_shown_by_path():
    old = {"a": 1, "b": {"c": (1, 2)}, "gone": 0}
    new = {"a": 1, "b": {"c": [1, 3]}, "new": None}
    assert differences(old, new) == {
        "b.c": "[1, 2] -> [1, 3]",
        "gone": "0 -> absent",
        "new": "absent -> None",
    }


def recipe_fields():
    """(owner, field) of Recipe and of every dataclass inside it."""
    recipe = recipe_of("digits")
    nested = [recipe, *(getattr(recipe, f.name) for f in dataclasses.fields(recipe))]
    nested.append(Stage(1, 1, recipe.augment, 0.0))
    for value in nested:
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield type(value).__name__, field.name


def attributes_read():
    """Attribute names loaded anywhere outside the declarations' range checks."""
    names = set()
    patterns = (
        "nfnets/**/*.py",
        "effnetv2/**/*.py",
        "resnet_rs/**/*.py",
        "experiments/*.py",
    )
    for path in [path for pattern in patterns for path in ROOT.glob(pattern)]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("check"):
                continue
            for inner in ast.walk(node):
                if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Load):
                    names.add(inner.attr)
    return names


def test_no_dead_knobs():
    read = attributes_read()
    dead = [f"{owner}.{field}" for owner, field in recipe_fields() if field not in read]
    assert dead == []
