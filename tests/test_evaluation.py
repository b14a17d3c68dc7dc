"""Evaluation counts every example once, whatever the devices and the batch."""

import jax
import numpy as np
import pytest
from helpers import tiny_recipe, with_changes

from nfnets.data.sources import open_source
from nfnets.initialize import init_variables
from nfnets.training import parallel
from nfnets.training.eval_step import make_eval_step
from nfnets.training.evaluation import evaluate, round_up
from nfnets.training.metrics import mean, window_row


class Part:
    """The first images of a source."""

    def __init__(self, whole, count):
        self.labels, self.read, self._count = whole.labels[:count], whole.read, count

    def __len__(self):
        return self._count


@pytest.fixture(scope="module")
def expected():
    """Counts by NumPy, over all examples at once."""
    recipe = tiny_recipe()
    model = recipe.create_model()
    variables = init_variables(model, jax.random.key(3), 8)
    head = variables["params"]["head"]
    # The initial classifier is nearly silent: make its scores differ.
    head["kernel"] = 100 * head["kernel"]
    test = Part(open_source("digits", "test"), 103)
    images = np.stack([test.read(i) for i in range(103)]).astype(np.float32)
    mean_, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    images = (images / 255 - np.array(mean_)) / np.array(std)
    logits = np.asarray(
        model.apply(variables, images.astype(np.float32), train=False), np.float64
    )
    order = np.argsort(-logits, axis=1)
    hits = order == np.asarray(test.labels).reshape(-1, 1)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    row = {
        "eval/top1": hits[:, 0].sum() / 103,
        "eval/top5": hits[:, :5].sum() / 103,
        "eval/loss": -log_p[np.arange(103), test.labels].mean(),
        "eval/examples": 103,
    }
    return recipe, model, variables, test, row


@pytest.mark.parametrize("num_devices", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [7, 24, 500])
def test_every_example_counts_once(expected, monkeypatch, num_devices, batch_size):
    recipe, model, variables, test, want = expected
    monkeypatch.setattr(parallel, "devices", lambda: jax.devices()[:num_devices])
    step = parallel.pmap_eval_step(make_eval_step(model))
    recipe = with_changes(recipe, eval__batch_size=batch_size)
    row = evaluate(step, {"eval": variables}, test, recipe)
    for key in ("eval/top1", "eval/top5", "eval/examples"):
        assert row[key] == want[key], key
    np.testing.assert_allclose(row["eval/loss"], want["eval/loss"], rtol=1e-5)


def test_stopping_gives_no_row(expected):
    recipe, model, variables, test, _ = expected
    step = parallel.pmap_eval_step(make_eval_step(model))
    stopped = evaluate(step, {"eval": variables}, test, recipe, lambda: True)
    assert stopped is None


def test_batches_are_rounded_up_to_the_devices():
    assert [round_up(n, 3) for n in (1, 3, 7)] == [3, 3, 9]


def metrics(loss, in_a_row=0, total=0):
    return {
        "loss": loss,
        "learning_rate": loss,
        "skipped_in_a_row": in_a_row,
        "skipped_total": total,
    }


def test_a_row_is_the_mean_of_the_updates_made():
    window = [metrics(1.0), metrics(float("nan"), 1, 5), metrics(2.0, 0, 5)]
    assert window_row(window) == {
        "train/loss": 1.5,
        "train/learning_rate": 2.0,
        "train/skipped_total": 5,
    }


def test_a_row_without_updates_has_no_loss():
    row = window_row([metrics(float("nan"), 1, 1)])
    assert row["train/loss"] is None
    assert np.isnan(mean([]))
