"""Several labels for one image: files, targets, the steps, and a whole run."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_recipe, with_changes

from nfnets.data.label_sets import open_label_sets, stand_in_label_sets
from nfnets.data.normalization import normalize
from nfnets.data.sources import open_source
from nfnets.errors import UserError
from nfnets.initialize import init_variables
from nfnets.training import losses, parallel, workdir
from nfnets.training.dry_run import dry_run
from nfnets.training.eval_step import make_eval_step
from nfnets.training.evaluate_only import evaluate_only
from nfnets.training.loop import train_and_evaluate
from nfnets.training.optimizer import make_optimizer
from nfnets.training.state import init_state
from nfnets.training.steps import make_train_step

NAMES = ("animal", "beagle", "cat", "dog")
CLOSURE = {"beagle": ["dog", "animal"], "dog": ["dog", "animal", "dog"]}
TABLE = np.array([[0, -1, -1], [1, 3, 0], [2, -1, -1], [3, 0, -1]], np.int32)


def written(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


def test_a_class_belongs_to_its_own_set_and_the_others_have_one(tmp_path):
    table = open_label_sets(written(tmp_path / "sets.json", CLOSURE), NAMES)
    assert table.dtype == np.int32
    np.testing.assert_array_equal(table, TABLE)
    assert open_label_sets(None, NAMES) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"beagle": ["dogg"]}, r"'dogg' is the name of 0 classes .*did you mean dog"),
        ({"bagle": ["dog"]}, r"'bagle' is the name of 0 classes.*beagle"),
        ({"cat": ["crane"]}, r"'crane' is the name of 2 classes"),
        ({"beagle": "dog"}, r"the entry 'beagle' is no list of names"),
        ({"beagle": [3]}, r"the entry 'beagle' is no list of names"),
        ('{"cat": ["dog"], "cat": []}', r"'cat' is there twice"),
        ({}, r"no object with entries; expected JSON like"),
        (["beagle"], r"no object with entries"),
        ("beagle dog", r"Expecting value.*expected JSON like"),
        ("[" * 100_000, r"expected JSON like"),
    ],
)
def test_mistakes_in_the_file(tmp_path, value, message):
    path = written(tmp_path / "sets.json", value)
    with pytest.raises(UserError, match=message) as caught:
        open_label_sets(path, (*NAMES, "crane", "crane"))
    assert "sets.json" in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: No such file"):
        open_label_sets(str(tmp_path / "none.json"), NAMES)


def test_stand_in_has_the_largest_size(tmp_path):
    path = written(tmp_path / "sets.json", CLOSURE)
    table = stand_in_label_sets(path, 5)
    assert (table.shape, table.dtype) == ((5, 3), np.int32)
    assert all(len(set(row)) == 3 and row[0] == k for k, row in enumerate(table))
    assert stand_in_label_sets(path, 2).shape == (2, 2)
    assert stand_in_label_sets(None, 5) is None


def targets(sum_to_one, smoothing=0.0):
    """0.75 of a beagle and 0.25 of a dog; 0.75 of a cat and 0.25 of an animal."""
    return losses.soft_targets(
        jnp.array([1, 2]),
        jnp.array([3, 0]),
        jnp.array([0.75, 0.75]),
        4,
        smoothing,
        label_sets=TABLE,
        sum_to_one=sum_to_one,
    )


def test_softmax_targets_share_a_mass_of_one():
    want = np.array([[0.375, 0.25, 0, 0.375], [0.25, 0, 0.75, 0]])
    np.testing.assert_allclose(targets(True), want, rtol=1e-6)
    np.testing.assert_allclose(targets(True, 0.2), 0.8 * want + 0.05, rtol=1e-6)


def test_binary_targets_are_one_for_each_label():
    want = [[1.0, 0.75, 0, 1.0], [0.25, 0, 0.75, 0]]
    np.testing.assert_allclose(targets(False), want, rtol=1e-6)


def test_sets_of_one_label_change_nothing():
    alone = np.arange(6, dtype=np.int32).reshape(6, 1)
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((8, 6)), jnp.float32)
    labels, others = jnp.asarray(rng.integers(0, 6, (2, 8)))
    ratio = jnp.asarray(rng.random(8), jnp.float32)
    for sum_to_one in (True, False):
        np.testing.assert_array_equal(
            losses.soft_targets(
                labels,
                others,
                ratio,
                6,
                0.1,
                label_sets=alone,
                sum_to_one=sum_to_one,
            ),
            losses.soft_targets(labels, others, ratio, 6, 0.1),
        )
    np.testing.assert_allclose(
        losses.evaluation_loss(logits, labels, alone),
        losses.evaluation_loss(logits, labels),
        rtol=1e-6,
    )
    best = jax.lax.top_k(logits, 3)[1]
    np.testing.assert_array_equal(
        losses.is_right(best, labels, alone), losses.is_right(best, labels)
    )


def test_a_guess_is_right_if_it_is_in_the_set():
    guesses = jnp.array([[0, 1, 2, 3], [0, 1, 2, 3], [3, 3, 3, 2]])
    found = losses.is_right(guesses, jnp.array([3, 0, 2]), TABLE)
    assert found.tolist() == [
        [True, False, False, True],
        [True, False, False, False],
        [False, False, False, True],
    ]


def test_evaluation_loss_by_hand():
    logits = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]]))
    want = [-np.log([0.2, 0.4, 0.1]).mean(), -np.log(0.3)]
    loss = losses.evaluation_loss(logits, jnp.array([1, 2]), TABLE)
    np.testing.assert_allclose(loss, want, rtol=1e-6)


def test_imagenet21k_needs_no_square_of_its_classes():
    """Nothing is larger than the batch's targets or the table: 21843 classes."""
    n, k = 8, 21843
    table = stand_in_table(k, 12)

    def of(labels):
        return losses.soft_targets(
            labels, labels[::-1], jnp.ones(n), k, 0.1, label_sets=table
        )

    traced = jax.make_jaxpr(of)(jnp.arange(n))
    sizes = [v.aval.size for eqn in every_equation(traced.jaxpr) for v in eqn.outvars]
    assert max(sizes) == n * k < table.size


def stand_in_table(num_classes, size):
    steps = np.arange(size, dtype=np.int32).reshape(1, -1)
    return (np.arange(num_classes, dtype=np.int32).reshape(-1, 1) + steps) % num_classes


def every_equation(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from every_equation(inner)


# Digits that share a stroke, say.
SETS = {"3": ["8"], "1": ["7", "4"], "9": ["8", "4", "7"]}
OF_DIGIT = {3: [3, 8], 1: [1, 7, 4], 9: [9, 8, 4, 7]}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return written(tmp_path_factory.mktemp("sets") / "sets.json", SETS)


@pytest.fixture(scope="module")
def recipe(file):
    return tiny_recipe(
        batch_size=360,
        num_epochs=1.0,
        log_every_steps=1,
        label_smoothing=0.0,
        data__label_sets=file,
        optim__warmup_epochs=0.0,
    )


def hot_by_hand(labels):
    hot = np.zeros((len(labels), 10))
    for row, label in zip(hot, labels, strict=True):
        row[OF_DIGIT.get(int(label), [int(label)])] = 1
    return hot


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_the_train_step_by_hand(recipe, file, loss):
    recipe = with_changes(recipe, loss=loss)
    table = open_label_sets(file, open_source("digits", "train").class_names)
    model = recipe.create_model()
    variables = init_variables(model, jax.random.key(0), 8)
    variables["params"]["head"]["kernel"] *= 100  # nearly silent otherwise
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, 40, 8, 8, 3), np.uint8)
    labels = rng.integers(0, 10, (1, 40), np.int32)
    logits = model.apply(variables, normalize(images[0]), train=False)
    logits = np.asarray(logits, np.float64)
    hot = hot_by_hand(labels[0])
    if loss == "softmax":
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        want = -(hot / hot.sum(axis=1, keepdims=True) * log_p).sum(axis=1).mean()
    else:
        costs = np.logaddexp(0, logits) - hot * logits
        want = costs.mean()
    top1 = hot[np.arange(40), logits.argmax(axis=1)].mean()
    plain = (labels[0] == logits.argmax(axis=1)).mean()
    assert top1 > plain
    tx = make_optimizer(recipe, variables["params"])
    step = jax.pmap(
        make_train_step(model, tx, recipe, label_sets=table),
        axis_name="batch",
        in_axes=(None, 0),
        out_axes=(None, None),
        devices=jax.devices()[:1],
    )
    state = init_state(variables, tx, keep_ema=True)
    _, metrics = step(state, {"image": images, "label": labels})
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)
    np.testing.assert_allclose(metrics["top1"], top1, rtol=1e-6)


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    said = []
    train_and_evaluate(recipe, directory, log=said.append)
    assert any("up to 4 labels an image" in line for line in said)
    return directory


def test_a_run_is_evaluated_on_the_sets(recipe, run, tmp_path):
    """NumPy over all test images at once, from the weights of the checkpoint."""
    last = [r for r in workdir.read_rows(run) if "eval/top1" in r][-1]
    row = evaluate_only(recipe, run, log=str)
    assert row == {key: value for key, value in last.items() if key.startswith("eval")}
    alone = with_changes(recipe, data__label_sets=None)
    plain = evaluate_only(alone, run, log=str)
    assert plain["eval/top1"] < row["eval/top1"]
    assert plain["eval/loss"] != row["eval/loss"]


def test_the_evaluation_step_by_hand(recipe, file):
    table = open_label_sets(file, open_source("digits", "test").class_names)
    model = recipe.create_model()
    variables = init_variables(model, jax.random.key(3), 8)
    variables["params"]["head"]["kernel"] *= 100
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (4, 10, 8, 8, 3)).astype(np.float32)
    labels = rng.integers(0, 10, (4, 10), np.int32)
    mask = np.ones((4, 10), bool)
    mask[3, 5:] = False
    step = parallel.pmap_eval_step(make_eval_step(model, label_sets=table))
    sums = step(variables, {"image": images, "label": labels, "mask": mask})
    logits = model.apply(variables, normalize(images.reshape(40, 8, 8, 3)), train=False)
    logits = np.asarray(logits, np.float64)[:35]
    hot = hot_by_hand(labels.reshape(-1)[:35])
    hits = np.take_along_axis(hot, np.argsort(-logits, axis=1), axis=1)
    assert sums["top1"] == hits[:, 0].sum()
    assert sums["top5"] == hits[:, :5].any(axis=1).sum()
    assert sums["examples"] == 35
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    want = -(hot / hot.sum(axis=1, keepdims=True) * log_p).sum()
    np.testing.assert_allclose(sums["loss"], want, rtol=1e-5)


def test_a_changed_file_is_refused_on_resuming(recipe, run, file):
    try:
        # Another text of the same sets is fine.
        written(Path(file), json.dumps(SETS, indent=3))
        assert train_and_evaluate(recipe, run, log=str).complete
        rows = (run / "metrics.jsonl").read_bytes()
        written(Path(file), SETS | {"2": ["3"]})
        with pytest.raises(UserError, match=r"sets\.json.*trained with up to step 3"):
            train_and_evaluate(recipe, run, log=str)
        assert (run / "metrics.jsonl").read_bytes() == rows
    finally:
        written(Path(file), SETS)


def test_dry_run_reads_the_weights_to_start_from(recipe, tmp_path):
    absent = with_changes(recipe, batch_size=24, init_from=str(tmp_path / "no.npz"))
    with pytest.raises(UserError, match=r"no\.npz"):
        dry_run(absent, log=str)


def test_dry_run_has_sets_of_that_size(recipe):
    """No data are opened, so no names are known: the sets are made up."""
    metrics = dry_run(with_changes(recipe, batch_size=24), log=str)
    assert np.isfinite(metrics["loss"])
