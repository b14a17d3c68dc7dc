"""The order of things in a search: history, failures, resuming; nothing is trained."""

import dataclasses

import pytest
from etils import epath
from helpers import recipe_of, with_changes

from effnetv2 import search as search_module
from effnetv2.backbones import Backbone, load_backbone
from effnetv2.search import evaluated, open_search, run_search
from effnetv2.search_algorithms import Algorithm, propose
from effnetv2.search_candidates import failure, network_recipe, search_recipe
from effnetv2.search_directory import (
    RETRAINED,
    Settings,
    device_name,
    read_rows,
    read_settings,
)
from effnetv2.search_retrain import chosen, retrain
from nfnets.errors import UserError
from nfnets.training.recipe import Recipe

BACKBONE = Backbone(
    name="tiny",
    model="effnetv2_b0",
    stages=("r1_k3_s1_e1_i8_o8_se0.25", "r1_k3_s1_e4_i8_o16_c1"),
    overrides={"stem_stride": 1, "head_channels": 16},
)
DIGITS = recipe_of("digits")


def settings(**changes):
    plain = {
        "recipe": DIGITS,
        "steps": 20,
        "backbone": BACKBONE,
        "algorithm": Algorithm("evolution", population=4, tournament=2, seed=0),
        "device": device_name(),
    }
    return Settings(**(plain | changes))


def trained(recipe, *_):
    """A row as training gives it; the accuracy depends on the network alone."""
    stages = recipe.model_overrides["stages"]
    accuracy = sum(map(ord, "".join(stages))) % 97 / 97 + recipe.seed / 1000
    return {
        "status": "ok",
        "reason": "",
        "reward": accuracy,
        "accuracy": accuracy,
        "step_time": 1.0,
        "step_time_spread": 0.0,
        "step_seconds": 0.01,
        "backbone_step_seconds": 0.01,
        "params": 1.0,
        "num_params": 1000,
        "steps": 20,
        "train_seconds": 0.0,
    }


class Evaluation:
    """Stands for training: counts calls, and does what ``at`` says at some of them."""

    def __init__(self, monkeypatch, at=None):
        self.calls, self.at = 0, at or {}
        monkeypatch.setattr(search_module, "evaluate_candidate", self)

    def __call__(self, recipe, *arguments):
        self.calls += 1
        outcome = self.at.get(self.calls, trained)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome(recipe, *arguments) if callable(outcome) else outcome


def run(directory, candidates, lines=None, **changes):
    log = (lambda line: None) if lines is None else lines.append
    opened = open_search(settings(**changes), epath.Path(directory), log=log)
    return opened, run_search(opened, candidates)


def networks(directory):
    return [row["genotype"] for row in read_rows(epath.Path(directory))]


def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(
    tmp_path, monkeypatch
):
    Evaluation(monkeypatch)
    assert run(tmp_path / "whole", 14)[1]
    interrupted = Evaluation(monkeypatch, at={6: None})
    assert not run(tmp_path / "parts", 14)[1]
    assert len(networks(tmp_path / "parts")) == 5
    with (tmp_path / "parts" / "candidates.jsonl").open("a") as file:
        file.write('{"index": 5, "gen')  # a line that a crash cut short
    lines = []
    assert run(tmp_path / "parts", 14, lines)[1]
    assert any("cut short" in line for line in lines)
    assert any("5 of 14 candidates are finished" in line for line in lines)
    assert interrupted.calls == 6 + 9  # no finished one was done again
    assert networks(tmp_path / "parts") == networks(tmp_path / "whole")
    # More candidates make it longer.
    assert run(tmp_path / "parts", 16)[1]
    assert networks(tmp_path / "parts")[:14] == networks(tmp_path / "whole")


def test_every_decision_of_evolution_follows_from_the_recorded_history(
    tmp_path, monkeypatch
):
    Evaluation(monkeypatch)
    opened, _ = run(tmp_path, 14)
    rows = read_rows(epath.Path(tmp_path))
    history = [evaluated(opened.space, row) for row in rows]
    for done, row in enumerate(rows):
        proposed = propose(opened.settings.algorithm, opened.space, history[:done])
        assert [str(choice) for choice in proposed] == row["genotype"]


def test_a_network_that_fails_gets_no_reward_and_the_search_goes_on(
    tmp_path, monkeypatch
):
    bad = failure("not finite", "the loss on held-out images is not finite")
    worse = failure("failed", RuntimeError("out of\nmemory"))
    Evaluation(monkeypatch, at={2: bad, 3: worse})
    lines = []
    assert run(tmp_path, 5, lines)[1]
    rows = read_rows(epath.Path(tmp_path))
    assert [row["status"] for row in rows] == ["ok", "not finite", "failed", "ok", "ok"]
    assert [row["reward"] for row in rows[1:3]] == [0.0, 0.0]
    assert rows[2]["reason"] == "RuntimeError: out of memory"
    assert "Candidate 2: failed, RuntimeError" in (tmp_path / "report.md").read_text()


def test_three_networks_that_fail_in_a_row_stop_the_search(tmp_path, monkeypatch):
    worse = failure("failed", RuntimeError("the device is lost"))
    Evaluation(monkeypatch, at={2: worse, 3: worse, 4: worse})
    with pytest.raises(UserError, match=r"last 3 candidates failed.*device is lost"):
        run(tmp_path, 6)
    assert run(tmp_path, 6)[1]  # the same command goes on


def test_what_is_the_machines_fault_is_tried_again_and_not_recorded(
    tmp_path, monkeypatch
):
    full = UserError("cannot write: No space left on device")
    evaluation = Evaluation(
        monkeypatch, at={2: full, 3: full, 5: full, 6: full, 7: full}
    )
    lines = []
    with pytest.raises(UserError, match="No space left"):
        run(tmp_path, 6, lines)
    assert evaluation.calls == 7
    assert sum(line.startswith("again") for line in lines) == 4
    assert [row["status"] for row in read_rows(epath.Path(tmp_path))] == ["ok", "ok"]
    assert run(tmp_path, 6)[1]
    assert len(networks(tmp_path)) == 6


def test_another_search_is_refused_with_the_difference(tmp_path, monkeypatch):
    Evaluation(monkeypatch)
    run(tmp_path, 2)
    with pytest.raises(UserError, match=r"another search \(steps: 20 -> 30\)"):
        run(tmp_path, 2, steps=30)
    with pytest.raises(UserError, match=r"device: .* -> 8 x TPU v3"):
        run(tmp_path, 2, device="8 x TPU v3")
    with pytest.raises(UserError, match=r"recipe\.optim\.momentum: 0.9 -> 0.8"):
        run(tmp_path, 2, recipe=with_changes(DIGITS, optim__momentum=0.8))
    # What changes the speed of input alone may differ.
    assert run(tmp_path, 2, recipe=with_changes(DIGITS, data__threads=2))[1]
    assert read_settings(epath.Path(tmp_path)) == settings()


def test_a_candidate_that_was_begun_belongs_to_its_search(tmp_path, monkeypatch):
    """Its step time is kept, which another backbone or device must not take over."""
    Evaluation(monkeypatch, at={1: None, 2: None})
    assert not run(tmp_path, 2)[1]
    assert not run(tmp_path, 2, steps=30)[1]  # nothing was measured before
    begun = tmp_path / "candidates" / "0000"
    begun.mkdir(parents=True)
    (begun / "step_time.json").write_text("{}")
    with pytest.raises(UserError, match=r"another search \(steps: 30 -> 20\)"):
        run(tmp_path, 2)
    assert run(tmp_path, 2, steps=30)[1]


def test_a_history_with_a_gap_is_refused(tmp_path, monkeypatch):
    Evaluation(monkeypatch)
    run(tmp_path, 3)
    path = tmp_path / "candidates.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2])
    with pytest.raises(UserError, match=r"in order, not \[0, 2\]"):
        run(tmp_path, 3)


def test_best_and_median_are_retrained_from_another_seed(tmp_path, monkeypatch):
    evaluation = Evaluation(monkeypatch)
    opened, _ = run(tmp_path, 9)
    rows = read_rows(epath.Path(tmp_path))
    ranked = sorted(rows, key=lambda row: -row["reward"])
    found = retrain(opened, top=2, seed=7)
    assert [row["role"] for row in found] == ["rank 1", "rank 2", "median"]
    wanted = [ranked[i]["index"] for i in (0, 1, 4)]
    assert [row["index"] for row in found] == wanted
    for row, first in zip(found, (ranked[i] for i in (0, 1, 4)), strict=True):
        assert row["reward"] == pytest.approx(first["reward"] + 0.007)
        assert row["first_reward"] == first["reward"]
    assert f"| {wanted[2]} | median | 7 |" in (tmp_path / "report.md").read_text()
    assert evaluation.calls == 12
    retrain(opened, top=2, seed=7)  # kept
    assert evaluation.calls == 12
    evaluation.at = {13: failure("failed", "out of memory"), 14: trained}
    assert retrain(opened, top=1, seed=8)[0]["status"] == "failed"
    assert retrain(opened, top=1, seed=8)[0]["status"] == "ok"  # tried again
    kept = read_rows(epath.Path(tmp_path), RETRAINED)
    assert [row["role"] for row in kept[:3]] == ["rank 1", "rank 2", "median"]
    elsewhere = dataclasses.replace(
        opened, settings=dataclasses.replace(opened.settings, device="8 x TPU v3")
    )
    with pytest.raises(UserError, match=r"on 8 x TPU v3, this is .*; retrain there"):
        retrain(elsewhere, top=1, seed=7)
    for seed in (0, -1, 2**32):
        with pytest.raises(UserError, match="the seed that the candidates had"):
            retrain(opened, top=1, seed=seed)
    with pytest.raises(UserError, match="9 networks with a reward"):
        retrain(opened, top=10, seed=7)


def test_a_network_that_is_among_the_best_and_the_median_is_retrained_once(
    tmp_path, monkeypatch
):
    evaluation = Evaluation(monkeypatch)
    opened, _ = run(tmp_path, 3)
    found = retrain(opened, top=2, seed=7)
    assert [row["role"] for row in found] == ["rank 1", "rank 2 and median"]
    assert evaluation.calls == 3 + 2
    assert len(read_rows(epath.Path(tmp_path), RETRAINED)) == 2


def test_the_median_is_that_of_networks_with_a_reward():
    def row(reward, status="ok"):
        return {"status": status, "reward": reward}

    rows = [row(0.1), row(0.4), row(0.0, "failed"), row(0.3), row(0.2)]
    assert chosen(rows, 1) == [("rank 1", row(0.4)), ("median", row(0.2))]


@pytest.mark.parametrize(
    ("steps", "batch_size", "images"), [(300, 128, 50000), (7, 64, 1437), (1, 3, 10)]
)
def test_candidates_train_for_so_many_steps(steps, batch_size, images):
    recipe = with_changes(DIGITS, batch_size=batch_size, optim__cooldown_epochs=2.0)
    short = search_recipe(recipe, steps, images)
    assert short.total_steps == steps
    assert short.data.num_train + short.data.holdout == images
    assert short.data.holdout == images // 10
    assert short.eval.split == "holdout"
    # One evaluation, at the end.
    assert short.eval_every_steps > steps
    assert short.warmup_steps <= steps / 10 + 1e-9


def test_what_the_recipe_says_of_data_stays():
    recipe = with_changes(DIGITS, data__holdout=37, num_epochs=2.0)
    short = search_recipe(recipe, None, 1437, 37)
    assert (short.data.holdout, short.num_epochs) == (37, 2.0)
    assert short.data.num_train == 1400


@pytest.mark.parametrize(("holdout", "count"), [(0.0, 143), (37.0, 37), (0.25, 359)])
def test_candidates_are_scored_on_what_the_recipe_holds_out(tmp_path, holdout, count):
    """Of the 1437 digits; below 1 it is a share."""
    recipe = with_changes(DIGITS, data__holdout=holdout)
    opened = open_search(settings(recipe=recipe), tmp_path)
    assert opened.recipe.data.holdout == count
    assert opened.recipe.data.num_train == 1437 - count


def test_another_models_overrides_are_dropped_and_its_own_kept():
    recipe = network_recipe(DIGITS, BACKBONE, BACKBONE.stages)
    assert dict(recipe.model_overrides) == BACKBONE.overrides | {
        "stages": BACKBONE.stages
    }
    own = with_changes(recipe, model_overrides={"bn_momentum": 0.8})
    kept = network_recipe(own, BACKBONE, BACKBONE.stages)
    assert kept.model_overrides["bn_momentum"] == 0.8
    recipe.create_model()


@pytest.mark.parametrize(
    "name", ["nfnet_f0", "nf_regnet_b0", "dm_resnet_50", "cifar10", "cifar10_nfnet_f0"]
)
def test_any_recipe_trains_candidates(name):
    recipe = recipe_of(name)
    short = search_recipe(recipe, 300, 50000)
    backbone = load_backbone("effnet_b4")
    found = network_recipe(short, backbone, backbone.stages)
    found = Recipe.from_config(found.to_dict())
    assert found.total_steps == 300
    assert found.weight_decay == recipe.weight_decay
    mine, theirs = found.stages[0].augment, recipe.stages[0].augment
    assert mine.randaugment_magnitude == theirs.randaugment_magnitude
    assert found.variant.stages == backbone.stages
