"""Fields of a model's row on the command line, which no config states."""

from __future__ import annotations

import pytest
from helpers import CONFIG_DIR

from nfnets.command_line import recipe_of_arguments
from nfnets.errors import UserError


def resolve(*flags: str):
    row = [f"--config.model_overrides.{flag}" for flag in flags]
    model = [f"--config.{key}=nf_resnet50" for key in ("model", "reference_model")]
    return recipe_of_arguments(["--config=rsb_a3", *model, *row], CONFIG_DIR)


def test_any_field_of_the_row_can_be_set():
    recipe = resolve("depths=(1,1,1)", "alpha=0.5", "activation=gelu", "se_ratio=None")
    row = recipe.variant
    assert (row.depths, row.alpha, row.activation) == ((1, 1, 1), 0.5, "gelu")
    assert row.se_ratio is None
    assert row.stem_kernel == 7  # as the model has it


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("depth=3", "nf_resnet50 has no field 'depth'; its fields are depths"),
        ("depths=many", r"depths='many' should be like \(3, 4, 6, 3\)"),
        ("stem_pool=3", "stem_pool=3 should be like True"),
    ],
)
def test_what_the_row_does_not_have_is_refused(flag: str, message: str):
    with pytest.raises(UserError, match=message):
        resolve(flag)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("foo=None", "foo; known: accumulation_steps, augment"),
        ("batchsize=3", r"batchsize; did you mean batch_size\?"),
        ("augment.mixup=0.5", r"augment\.mixup; did you mean mixup_alpha\?"),
        ("optim.schedule.x=1", r"optim\.schedule\.x$"),
    ],
)
@pytest.mark.parametrize("dashes", ["-", "--"])
def test_an_unknown_field_is_named(dashes, flag, message):
    with pytest.raises(UserError, match=f"^the config has no field {message}"):
        recipe_of_arguments(["--config=rsb_a3", f"{dashes}config.{flag}"], CONFIG_DIR)


def test_a_wrong_value_is_named_beside_a_field_of_the_row():
    row = "--config.model_overrides.alpha=0.5"
    with pytest.raises(UserError, match=r"config\.batch_size=many: invalid literal"):
        recipe_of_arguments(
            ["--config=digits", row, "--config.batch_size=many"], CONFIG_DIR
        )


def test_a_field_of_another_network_than_the_recipes_is_not_dropped():
    flags = ["--config.model=nf_resnet50", "--config.model_overrides.alpha=0.5"]
    with pytest.raises(UserError, match=r"give --config\.reference_model=nf_resnet50"):
        recipe_of_arguments(["--config=rsb_a3", *flags], CONFIG_DIR)


@pytest.mark.parametrize("field", ["seed=1", "seed=None", "model_overrides.depths=1"])
def test_a_field_without_a_config_is_refused(field):
    message = rf"^--config\.{field} needs --config=NAME, the config that it changes$"
    with pytest.raises(UserError, match=message):
        recipe_of_arguments([f"--config.{field}"], CONFIG_DIR)
