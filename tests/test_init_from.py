"""Starting from a file of weights, and evaluating without training."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers import tiny_recipe, with_changes

from nfnets.errors import UserError
from nfnets.initialize import init_variables
from nfnets.training import checkpoint, workdir
from nfnets.training.evaluate_only import evaluate_only
from nfnets.training.initial_weights import initial_variables
from nfnets.training.loop import train_and_evaluate
from nfnets.training.optimizer import make_optimizer
from nfnets.training.state import init_state
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


def trees_of(directory, step, *names):
    """Fields of a checkpoint as orbax alone reads them, by "params/head/kernel"."""
    import orbax.checkpoint as ocp

    arrays = ocp.StandardCheckpointer().restore(
        (directory / "checkpoints" / str(step) / "state").resolve()
    )
    return [
        {k.partition("/")[2]: v for k, v in arrays.items() if k.split("/")[0] == name}
        for name in names
    ]


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}


def test_a_run_starts_from_the_moving_average_of_another(recipe, run):
    said = []
    changed = with_changes(recipe, init_from=str(run), optim__nesterov=False)
    found = initial_variables(changed, changed.create_model(), said.append)
    params, average = trees_of(run, 3, "params", "ema_params")
    jax.tree.map(np.testing.assert_array_equal, flat(found["params"]), average)
    assert any((params[name] != average[name]).any() for name in params)
    assert said == [f"weights  from {run} step 3 (moving average)"]


def test_two_routes_to_the_average_of_a_run(recipe, run, tmp_path):
    """Evaluated in its own directory, from another one, and by training from it."""
    last = [r for r in workdir.read_rows(run) if "eval/top1" in r][-1]
    want = {f"eval/{k}": last[f"eval_ema/{k}"] for k in ("loss", "top1", "examples")}
    for place in (run, run / "checkpoints", run / "checkpoints" / "3"):
        changed = with_changes(recipe, init_from=str(place))
        row = evaluate_only(changed, tmp_path / "evaluated", log=str)
        assert {key: row[key] for key in want} == want
    written = json.loads((tmp_path / "evaluated" / "evaluation.json").read_text())
    assert written["weights"] == f"{run} step 3 (moving average)"
    still = with_changes(changed, optim__lr_per_256=1e-30, ema_decay=None)
    train_and_evaluate(still, tmp_path / "trained", log=str)
    row = [r for r in workdir.read_rows(tmp_path / "trained") if "eval/top1" in r][-1]
    assert {key: row[key] for key in want} == want


def test_reading_a_run_changes_nothing_and_does_not_wait_for_it(recipe, run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    changed = with_changes(recipe, init_from=str(run))
    with workdir.locked(run):  # as a training process does
        initial_variables(changed, changed.create_model(), str)
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_run_with_other_classes_gets_a_fresh_classifier(recipe, run):
    changed = with_changes(recipe, init_from=str(run), data__num_classes=12)
    said = []
    found = initial_variables(changed, changed.create_model(), said.append)
    assert found["params"]["head"]["bias"].shape == (12,)
    (average,) = trees_of(run, 3, "ema_params")
    for name, leaf in flat(found["params"]).items():
        if not name.startswith("head/"):
            np.testing.assert_array_equal(leaf, average[name])
    assert "classifier" in said[-1]


def test_statistics_of_batch_norm_come_along(recipe, tmp_path):
    """A made-up run of a network with BatchNorm that keeps no average."""
    bn = with_changes(
        recipe,
        model="dm_resnet50",
        reference_model="dm_resnet50",
        model_overrides={"depths": (1,), "widths": (32,), "strides": (1,)},
        data__num_classes=10,
        ema_decay=None,
    )
    variables = init_variables(bn.create_model(), jax.random.key(7), 8)
    variables = jax.tree.map(lambda x: x + 0.5, variables)
    tx = make_optimizer(with_changes(bn, optim__no_clip=()), variables["params"])
    workdir.make_writable(tmp_path)
    workdir.claim(tmp_path, bn)
    with checkpoint.open_manager(tmp_path / workdir.CHECKPOINTS, str) as manager:
        state = init_state(variables, tx, keep_ema=False)
        checkpoint.save(manager, state, {"step": 0}, None)
        checkpoint.finish(manager)
    said = []
    from_run = with_changes(bn, init_from=str(tmp_path))
    found = initial_variables(from_run, bn.create_model(), said.append)
    assert found["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, found, variables)
    assert said == [f"weights  from {tmp_path} step 0 (weights, no average was kept)"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_mistakes_with_runs(recipe, run, tmp_path):
    def refused(place, match, **changes):
        changed = with_changes(recipe, init_from=str(place), **changes)
        with pytest.raises(UserError, match=match) as caught:
            initial_variables(changed, changed.create_model(), str)
        assert "\n" not in str(caught.value)

    refused(tmp_path, r"is a directory, but not of a run: it has no config\.json")
    refused(run / "checkpoints" / "2", r"has no checkpoint 2; there are: 3")
    refused(run, r"the model nfnet_f0, this one nf_resnet50", model="nf_resnet50")
    widths = {**recipe.model_overrides, "widths": (16, 48)}
    refused(run, r"wrong shape.*as this config has it", model_overrides=widths)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for file in (copy / "checkpoints" / "3" / "state").rglob("d/*"):
        file.write_bytes(b"")
    refused(copy, r"checkpoint 3 in .* is damaged .*there are: 3")
    shutil.rmtree(copy / "checkpoints" / "3")
    refused(copy, r"has no checkpoint yet; there are: none")
    shutil.rmtree(copy / "checkpoints")
    refused(copy, r"there is no checkpoint in .* yet; train first")
    (copy / "config.json").write_text("{}")
    refused(copy, r"config\.json: config\.name is missing")
