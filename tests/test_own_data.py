"""A user's own folder under any recipe: one override, and nothing else to set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from helpers import recipe_of, tiny_recipe, with_changes
from PIL import Image

from nfnets.errors import UserError
from nfnets.training import workdir
from nfnets.training.evaluate_only import evaluate_only
from nfnets.training.loop import train_and_evaluate
from nfnets.training.session import prepare
from nfnets.weights import save_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Dark cats and bright dogs, 40 each, in class folders."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for name, low in (("cat", 0), ("dog", 156)):
        (root / name).mkdir()
        for i in range(40):
            pixels = rng.integers(low, low + 100, (12, 9, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize("name", ["nfnet_f0", "nf_regnet_b0", "nf_resnet_50"])
def test_a_recipe_takes_the_number_of_classes_from_the_data(name, folder, tmp_path):
    recipe = recipe_of(name, data__source=f"folder:{folder}")
    assert recipe.num_classes == 1000  # before any data are opened
    said: list[str] = []
    run = prepare(recipe, epath.Path(tmp_path), said.append, bool, "", {})
    assert (run.learner.model.num_classes, run.recipe.num_classes) == (2, 2)
    assert run.recipe.data.num_train == len(run.train_source) < 80
    (line,) = [line for line in said if line.startswith("data ")]
    assert "2 classes; the data have no test split: " in line
    assert run.facts.data in line


def test_a_stated_number_of_classes_stays(folder, tmp_path):
    recipe = tiny_recipe(data__source=f"folder:{folder}", data__num_classes=7)
    run = prepare(recipe, epath.Path(tmp_path), str, bool, "", {})
    assert (run.learner.model.num_classes, run.train_source.num_classes) == (7, 7)
    recipe = with_changes(recipe, data__num_classes=1)
    with pytest.raises(UserError, match="set num_classes to 2 or more"):
        prepare(recipe, epath.Path(tmp_path), str, bool, "", {})


def test_training_learns_two_classes_and_evaluation_is_held_out(folder, tmp_path):
    recipe = tiny_recipe(data__source=f"folder:{folder}", num_epochs=8.0)
    train_and_evaluate(recipe, tmp_path, log=str)
    last = [row for row in workdir.read_rows(tmp_path) if "eval/top1" in row][-1]
    assert last["eval/top1"] > 0.9  # a blind guess has 0.5
    assert last["eval/top5"] == 1.0  # of two classes
    kept = json.loads((tmp_path / "config.json").read_text())["data"]
    assert kept["num_classes"] == 2
    assert last["eval/examples"] == 80 - kept["num_train"]
    assert "no test split" in (tmp_path / "report.md").read_text()
    # Evaluated alone, the same images count.
    said: list[str] = []
    row = evaluate_only(recipe, tmp_path, log=said.append)
    assert row["eval/examples"] == last["eval/examples"]
    assert row["eval/top1"] == last["eval/top1"]
    assert any("no test split" in line for line in said)
    # A checkpoint of other classes is refused, not fitted.
    other = with_changes(recipe, data__source="digits")
    with pytest.raises(UserError, match=r"has 2 classes, the data .* 10; evaluate"):
        evaluate_only(other, tmp_path, log=str)


def test_weights_of_more_classes_than_the_data_need_a_word(folder, tmp_path):
    """Labels of a part of the classes would else be others than the network's."""
    import jax

    from nfnets.initialize import init_variables

    recipe = tiny_recipe(data__source=f"folder:{folder}")
    path = tmp_path / "ten.safetensors"
    variables = init_variables(recipe.create_model(), jax.random.key(0), 8)
    save_weights(recipe.model, variables, path, overrides=recipe.overrides)
    recipe = with_changes(recipe, init_from=str(path))
    with pytest.raises(UserError, match=r"10 classes, the run 2 .*num_classes=10"):
        evaluate_only(recipe, tmp_path, log=str)
    names = tmp_path / "map.txt"
    names.write_text("cat 3\ndog 5\n")
    said = with_changes(recipe, data__num_classes=10, data__class_map=str(names))
    row = evaluate_only(said, tmp_path, log=str)
    assert row["eval/examples"] > 0
