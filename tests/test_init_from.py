"""Starting from a file of weights, and evaluating without training."""

import json

import jax
import numpy as np
import pytest
from helpers import tiny_recipe, with_changes

from nfnets.errors import UserError
from nfnets.initialize import init_variables
from nfnets.training import workdir
from nfnets.training.evaluate_only import evaluate_only
from nfnets.training.initial_weights import initial_variables
from nfnets.training.loop import train_and_evaluate
from nfnets.weights import save_weights


@pytest.fixture(scope="module")
def recipe():
    return tiny_recipe(batch_size=360, num_epochs=1.0, log_every_steps=1)


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    train_and_evaluate(recipe, directory, log=str)
    return directory


@pytest.fixture(scope="module")
def file(recipe, tmp_path_factory):
    """Random weights in a file; every array differs from what seed 0 draws."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    variables = init_variables(recipe.create_model(), jax.random.key(7), 8)
    variables = jax.tree.map(lambda x: np.asarray(x) + 0.5, variables)
    save_weights(recipe.model, variables, path, overrides=recipe.overrides)
    return path, variables


def test_evaluating_a_run_gives_its_last_row(recipe, run):
    row = evaluate_only(recipe, run, log=str)
    last = [r for r in workdir.read_rows(run) if "eval/top1" in r][-1]
    assert row == {key: value for key, value in last.items() if key.startswith("eval")}
    written = json.loads((run / "evaluation.json").read_text())
    assert written["eval_ema/examples"] == 360
    assert written["weights"].endswith("step 3")
    assert written["data"] == "digits/test"


def test_evaluating_a_run_changes_nothing_else(recipe, run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    evaluate_only(recipe, run, log=str)
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert {p: after[p] for p in before} == before


def test_evaluating_a_file_gives_what_a_run_from_it_starts_with(
    recipe, run, file, tmp_path
):
    """Two routes to the same numbers: --mode=eval, and training with rate 0."""
    from_file = with_changes(recipe, init_from=str(file[0]))
    row = evaluate_only(from_file, tmp_path / "evaluated", log=str)
    still = with_changes(from_file, optim__lr_per_256=1e-30, ema_decay=None)
    train_and_evaluate(still, tmp_path / "trained", log=str)
    last = [r for r in workdir.read_rows(tmp_path / "trained") if "eval/top1" in r][-1]
    assert row == {key: value for key, value in last.items() if key.startswith("eval/")}
    assert row["eval/loss"] != evaluate_only(recipe, run, log=str)["eval/loss"]


def test_initial_variables_are_those_of_the_file(recipe, file):
    path, variables = file
    recipe = with_changes(recipe, init_from=str(path))
    found = initial_variables(recipe, recipe.create_model(), str)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_another_number_of_classes_gets_a_fresh_classifier(recipe, file):
    path, variables = file
    recipe = with_changes(recipe, init_from=str(path), data__num_classes=12)
    said = []
    found = initial_variables(recipe, recipe.create_model(), said.append)
    fresh = init_variables(recipe.create_model(), jax.random.key(0), 8)
    heads = found["params"].pop("head"), fresh["params"].pop("head")
    jax.tree.map(np.testing.assert_array_equal, *heads)
    rest = {k: v for k, v in variables["params"].items() if k != "head"}
    jax.tree.map(np.testing.assert_array_equal, found["params"], rest)
    assert "classifier" in said[-1]
    with pytest.raises(UserError, match=r"has 10 classes, the run 12.*own data set"):
        evaluate_only(recipe, path.parent, log=str)


def test_mistakes(recipe, file, tmp_path):
    path, _ = file
    other = with_changes(
        recipe,
        init_from=str(path),
        model_overrides={**recipe.model_overrides, "widths": (16, 48)},
    )
    with pytest.raises(UserError, match=r"tiny\.safetensors"):
        initial_variables(other, other.create_model(), str)
    missing = with_changes(recipe, init_from=str(tmp_path / "none.npz"))
    with pytest.raises(UserError, match=r"none\.npz"):
        evaluate_only(missing, tmp_path, log=str)
    with pytest.raises(UserError, match="no checkpoint in"):
        evaluate_only(recipe, tmp_path, log=str)
