"""Several test sets by one command: exact counts, and which checkpoint was taken."""

from __future__ import annotations

import csv
import functools
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from etils import epath
from helpers import run_script, with_changes
from PIL import Image
from saved_run import CLASSES, PIXELS, RECIPE, network, save_run

from nfnets.data.normalization import normalize
from nfnets.errors import UserError
from nfnets.training import (
    checkpoint,
    evaluate_sets,
    evaluation_results,
    parallel,
    tested_weights,
    workdir,
)
from nfnets.training import evaluate_only as evaluate_only_module
from nfnets.training.eval_step import make_eval_step
from nfnets.training.evaluate_only import evaluate_only
from nfnets.training.evaluation_results import Result, read_results, write_result
from nfnets.training.evaluation_sets import Places
from nfnets.training.recipe import Recipe
from nfnets.training.resolution_sweep import CSV, table
from nfnets.weights import save_weights

# Of three sets at once: images that count, and how many of them are right.
EXPECTED = {
    "val": {"examples": 6, "top1": 2 / 6, "top5": 4 / 6},
    "real": {"examples": 4, "top1": 2 / 4, "top5": 3 / 4},
    "v2": {"examples": 24, "top1": 12 / 24},
}


def quiet(line: str) -> None:
    del line


class Made(NamedTuple):
    """A run, the sets, and what the run's last weights were made to be right on."""

    run: Path
    recipe: Recipe
    places: Places


def guesses(seed: int) -> np.ndarray:
    """Classes of each of ``PIXELS`` by ``network(seed)``, the likeliest first."""
    model = RECIPE.create_model()
    apply = jax.jit(lambda v, x: model.apply(v, normalize(x), train=False))
    return np.argsort(-np.asarray(apply(network(seed), PIXELS)), axis=1)


def save_image(path: Path, pixels: np.ndarray) -> None:
    """Without loss, whatever its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """ReaL and V2 in miniature, in the formats they are published in.

    Labels are chosen by the guesses of the run's last weights, so that what is right
    is known: see the comments.
    """
    root = tmp_path_factory.mktemp("sets")
    order = guesses(30)
    # val: 6 images, numbered so that the order of the folders is not theirs. Of two
    # the class is the first guess, of two the third, of two the last.
    for i, rank in enumerate([0, 2, 11, 0, 2, 11]):
        name = f"ILSVRC2012_val_{i + 1:08d}.JPEG"
        save_image(root / "val" / f"n{order[i, rank]:02}" / name, PIXELS[i])
    names = "".join(f"n{label:02} {label}\n" for label in range(CLASSES))
    (root / "classes.txt").write_text(names)
    # ReaL: right at once, left out, right in the top five, right by the second of two
    # labels, left out, wrong.
    lists = [
        [order[0, 0]],
        [],
        [order[2, 11], order[2, 3]],
        [order[3, 9], order[3, 0]],
        [],
        [order[5, 5], order[5, 6]],
    ]
    text = json.dumps([[int(label) for label in labels] for labels in lists])
    (root / "real.json").write_text(text)
    # V2: of each class one image that is right and one that is wrong.
    for label in range(CLASSES):
        right = np.flatnonzero(order[:, 0] == label)[0]
        wrong = np.flatnonzero(order[:, 0] != label)[0]
        save_image(root / "v2" / str(label) / "a.jpeg", PIXELS[right])
        save_image(root / "v2" / str(label) / "b.jpeg", PIXELS[wrong])
    places = Places(
        val=str(root / "val"), real=str(root / "real.json"), v2=str(root / "v2")
    )
    recipe = with_changes(RECIPE, data__class_map=str(root / "classes.txt"))
    save_run(root / "run", {30: 0.5}, recipe)
    return Made(root / "run", recipe, places)


def run_sets(tested, names, places, **options) -> tuple[list[Result], list]:
    """The results, and what was said."""
    results: list[Result] = []
    said: list[str] = []
    options = {"take": results.append, "log": said.append} | options
    assert evaluate_sets.evaluate_weights(tested, names, places, **options)
    return results, said


def last_of(made: Made, **changes) -> tested_weights.Tested:
    recipe = with_changes(made.recipe, **changes)
    return tested_weights.read_run_weights(epath.Path(made.run), recipe, None, quiet)


@pytest.fixture
def traced(monkeypatch) -> list[None]:
    """As long as the evaluation step was traced, that is, compiled."""
    found: list[None] = []

    def counted(*args, **options):
        step = make_eval_step(*args, **options)
        return lambda *given: found.append(None) or step(*given)

    monkeypatch.setattr(evaluate_sets, "make_eval_step", counted)
    return found


@pytest.mark.parametrize("batch_size", [4, 12, 64])
def test_counts_are_exact_whatever_the_batch(made, batch_size, traced):
    """On four devices, where 4, 6 and 24 images leave padding in most batches."""
    tested = last_of(made, eval__batch_size=batch_size)
    results, said = run_sets(tested, ["val", "real", "v2"], made.places)
    assert [result.name for result in results] == list(EXPECTED)
    for result in results:
        row, want = result.metrics["eval"], EXPECTED[result.name]
        assert {key: row[key] for key in want} == want
        assert result.metrics["eval_ema"]["examples"] == want["examples"]
        assert ("loss" in row) == (result.name != "real")
        assert (result.facts["checkpoint"], result.facts["step"]) == ("last", 30)
    assert len(traced) == 1  # all sets and both kinds of weights share a step
    lines = {line.split()[0]: line for line in said}
    assert lines["val"].endswith(": 6 images; the published set has 50000")
    assert "[without 2 of no ReaL label]: 4 images; the pub" in lines["real"]
    assert lines["real"].endswith("has 46837")
    assert lines["v2"].endswith(": 24 images; the published set has 10000")


def test_the_last_checkpoint_unless_another_is_named(tmp_path):
    save_run(tmp_path / "run", {10: 0.9, 20: 0.3, 30: 0.1})
    run = epath.Path(tmp_path / "run")
    with checkpoint.open_manager(run / workdir.CHECKPOINTS, str) as manager:
        assert sorted(manager.all_steps()) == [10, 20, 30]
    for which, step in ((None, 30), ("best", 10), (20, 20), (30, 30)):
        said: list[str] = []
        tested = tested_weights.read_run_weights(run, None, which, said.append)
        assert tested.facts["step"] == step
        for prefix, seed in (("eval", step), ("eval_ema", step + 1)):
            found = tested.by_prefix[prefix]["params"]
            jax.tree.map(np.testing.assert_array_equal, found, network(seed)["params"])
        kind = which if which == "best" else "last" if which is None else "step"
        assert f"step {step} of 1496 ({kind} checkpoint)" in said[0]
    with pytest.raises(UserError, match="no checkpoint 11; there are: 10, 20, 30"):
        tested_weights.read_run_weights(run, None, 11, quiet)


def test_there_is_no_best_of_checkpoints_that_were_not_evaluated(tmp_path):
    save_run(tmp_path / "run", {10: None, 20: None})
    run = epath.Path(tmp_path / "run")
    assert tested_weights.read_run_weights(run, None, None, quiet).facts["step"] == 20
    with pytest.raises(UserError, match="no checkpoint that was evaluated; there are"):
        tested_weights.read_run_weights(run, None, "best", quiet)
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        tested_weights.read_run_weights(epath.Path(tmp_path), None, None, quiet)


def test_the_same_numbers_as_run_py_gives(tmp_path):
    """On the run's own data: digits, which have 10 of the network's 12 classes.

    Neither way minds a process that is training there.
    """
    save_run(tmp_path / "run", {30: 0.5})
    with workdir.locked(epath.Path(tmp_path / "run")):
        row = evaluate_only(RECIPE, epath.Path(tmp_path / "run"), log=quiet)
    run = epath.Path(tmp_path / "run")
    tested = tested_weights.read_run_weights(run, None, None, quiet)
    (result,), _ = run_sets(tested, ["val"], Places())
    for prefix, metrics in result.metrics.items():
        assert {f"{prefix}/{key}": value for key, value in metrics.items()} == {
            key: value for key, value in row.items() if key.startswith(f"{prefix}/")
        }
    assert row["eval/examples"] == 360


def test_run_py_refuses_a_damaged_checkpoint_and_changes_nothing(tmp_path):
    run = tmp_path / "run"
    save_run(run, {20: 0.5, 30: 0.5})
    shutil.rmtree(run / "checkpoints" / "30" / "state")
    before = sorted(run.rglob("*"))
    with pytest.raises(
        UserError, match=r"checkpoint 30 in .* is damaged .*there are: 20"
    ):
        evaluate_only(RECIPE, epath.Path(run), log=quiet)
    assert sorted(run.rglob("*")) == before


def test_run_py_does_not_compute_what_it_cannot_write(tmp_path, monkeypatch):
    save_run(tmp_path / "run", {30: 0.5})
    (tmp_path / "run" / "evaluation.json").mkdir()
    monkeypatch.setattr(evaluate_only_module, "evaluate", None)
    with pytest.raises(UserError, match=r"cannot write .*evaluation.json: Is a direct"):
        evaluate_only(RECIPE, epath.Path(tmp_path / "run"), log=quiet)


def test_sizes_and_crops(made, tmp_path, traced):
    """The step is compiled once a size; a crop of all is the image itself."""
    tested = last_of(made, eval__crop="resize_crop")
    out = epath.Path(tmp_path / "out")
    said: list[str] = []
    evaluate_sets.evaluate_and_write(
        tested,
        ["v2"],
        made.places,
        out,
        sizes=[8, 12],
        crops=[0.5, 1.0],
        by_class=False,
        log=said.append,
        stop_requested=bool,
    )
    assert len(traced) == 2
    rows = list(csv.DictReader((out / CSV).read_text().splitlines()))
    settings = [(r["image_size"], r["crop_pct"]) for r in rows if r["average"] == "0"]
    assert settings == [("8", "0.5"), ("8", "1.0"), ("12", "0.5"), ("12", "1.0")]
    assert {row["examples"] for row in rows} == {"24"}
    assert float(rows[2]["top1"]) == EXPECTED["v2"]["top1"]
    assert (out / "resolution_sweep.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / "evaluations.json").exists()
    (shown,) = [line for line in said if line.startswith("v2 top-1")]
    assert shown.splitlines()[0].split()[-4:] == ["crop", "0.5", "crop", "1"]
    assert shown.splitlines()[1].split()[-1] == "50.00"


@pytest.mark.parametrize("num_devices", [1, 4])
def test_numbers_by_class(made, tmp_path, monkeypatch, num_devices):
    """V2 has of each class one image that is right and one that is not; ReaL has none.

    Counts are the same on any number of devices, and add up to those of the set.
    """
    monkeypatch.setattr(parallel, "devices", lambda: jax.devices()[:num_devices])
    out = epath.Path(tmp_path / "out")
    said: list[str] = []
    evaluate_sets.evaluate_and_write(
        last_of(made),
        ["val", "real", "v2"],
        made.places,
        out,
        sizes=[],
        crops=[],
        by_class=True,
        log=said.append,
        stop_requested=bool,
    )
    assert "no numbers by class of real: its images have several labels" in str(said)
    first = guesses(30)[:, 0]
    rows = list(csv.DictReader((out / "per_class_v2.csv").read_text().splitlines()))
    for label, row in enumerate(rows):
        wrong = first[np.flatnonzero(first != label)[0]]
        got = [row[c] for c in ("label", "examples", "top1", "wrong_label")]
        assert got == [str(label), "2", "0.5", str(wrong)]
        assert row["wrong_count"] == "1"
    entry = read_results(out / "evaluations.json")["v2"]
    for name in ("top1", "top5"):
        hits = sum(round(2 * float(row[name])) for row in rows)
        assert hits / 24 == entry[name]
    examples = [
        int(row["examples"])
        for row in csv.DictReader((out / "per_class_val.csv").read_text().splitlines())
    ]
    assert sum(examples) == 6
    names = sorted(p.name for p in out.iterdir() if not p.name.startswith("."))
    kinds = ("val.", "val_ema.", "v2.", "v2_ema.")
    made_files = [f"confusion_{kind}png" for kind in kinds]
    made_files += [f"per_class_{kind}csv" for kind in kinds]
    assert names == sorted([*made_files, "evaluations.json"])
    assert (out / "confusion_v2.png").read_bytes().startswith(b"\x89PNG")
    for name in (*made_files, "evaluations.json"):
        assert name in said[-1]


def test_the_table_has_a_line_per_size(made):
    def result(size: int, crop: float, top1: float) -> Result:
        recipe = with_changes(made.recipe, eval__image_size=size, eval__crop_pct=crop)
        return Result("val", recipe, {"eval": {"top1": top1}}, {})

    given = [result(288, 0.95, 0.8124), result(224, 0.95, 0.75), result(288, 1, 0.5)]
    lines = [line.split() for line in table(given).splitlines()]
    assert lines[0] == ["val", "top-1", "(%)", "crop", "0.95", "crop", "1"]
    assert lines[1:] == [["224", "px", "75.00"], ["288", "px", "81.24", "50.00"]]


def test_results_of_other_sets_stay(made, tmp_path):
    def result(name: str, top1: float) -> Result:
        metrics = {"eval": {"top1": top1, "examples": 7}, "eval_ema": {"top1": 0.5}}
        return Result(name, made.recipe, metrics, {"checkpoint": "last", "step": 9})

    out = epath.Path(tmp_path / "new" / "out")
    for name, top1 in (("val", 0.1), ("v2", 0.2), ("val", 0.3)):
        write_result(out, result(name, top1))
    found = read_results(out / "evaluations.json")
    assert {name: entry["top1"] for name, entry in found.items()} == {
        "val": 0.3,
        "v2": 0.2,
    }
    assert found["val"] == {
        "top1": 0.3,
        "examples": 7,
        "checkpoint": "last",
        "step": 9,
        "image_size": 8,
        "crop": "resize",
        "crop_pct": None,
        "ema": {"top1": 0.5},
    }
    (out / "evaluations.json").write_text("[")
    with pytest.raises(UserError, match="mend or remove it"):
        write_result(out, result("val", 0.1))


def test_results_of_processes_at_once_are_all_kept(made, tmp_path, monkeypatch):
    """Threads here: each opens the lock anew, as processes do."""
    read = evaluation_results.read_results

    def slowly(path):
        found = read(path)
        time.sleep(0.02)  # in which another may read, where nobody waits
        return found

    monkeypatch.setattr(evaluation_results, "read_results", slowly)
    metrics = {"eval": {"top1": 0.5}}
    names = [f"set{i}" for i in range(6)]
    with ThreadPoolExecutor(len(names)) as pool:
        results = [Result(name, made.recipe, metrics, {}) for name in names]
        list(pool.map(lambda r: write_result(epath.Path(tmp_path), r), results))
    assert sorted(read(epath.Path(tmp_path / "evaluations.json"))) == names


@pytest.mark.parametrize("sizes", [[], [8]])
def test_results_that_cannot_be_written_are_not_computed(
    made, tmp_path, monkeypatch, sizes
):
    def evaluate(out: str) -> str:
        with pytest.raises(UserError) as caught:
            evaluate_sets.evaluate_and_write(
                last_of(made),
                ["v2"],
                made.places,
                epath.Path(tmp_path / out),
                sizes=sizes,
                crops=[],
                by_class=False,
                log=quiet,
                stop_requested=bool,
            )
        return str(caught.value)

    monkeypatch.setattr(evaluate_sets, "evaluate_weights", None)
    (tmp_path / "file").write_text("")
    file = "resolution_sweep.csv" if sizes else "evaluations.json"
    message = f"cannot write {tmp_path}/file/out/{file}: Not a directory; give another"
    assert evaluate("file/out").startswith(message)
    (tmp_path / "out" / file).mkdir(parents=True)
    assert f"out/{file}: Is a directory" in evaluate("out")
    if not sizes:
        (tmp_path / "evaluations.json").write_text("[")
        assert evaluate(".").endswith("mend or remove it")


def test_stopping_gives_no_more_results(made):
    results: list[Result] = []
    done = evaluate_sets.evaluate_weights(
        last_of(made),
        ["v2"],
        made.places,
        log=quiet,
        take=results.append,
        stop_requested=lambda: True,
    )
    assert (done, results) == (False, [])


@pytest.mark.parametrize(
    ("names", "places", "changes", "message"),
    [
        (["reel"], {}, {}, "unknown set 'reel'; did you mean real"),
        (["v2"], {"v2": None}, {}, "give --v2=PATH/imagenetv2-matched-freq"),
        (["real"], {"real": None}, {}, "lists no ReaL labels; give --real="),
        (["val"], {"val": "/nowhere"}, {}, "/nowhere does not exist"),
        (
            ["val"],
            {},
            {"data__class_map": None},
            r"classes, the network 12; .*class_map",
        ),
        (["val"], {"val": "digits"}, {}, "digits/test has 10 classes, the network 12"),
        (["v2"], {}, {"data__label_sets": "x.json"}, "v2 is ImageNet-1k's"),
        (["v2"], {}, {"data__num_classes": 13}, "12 classes, but .* is 13"),
    ],
)
def test_mistakes_are_said_before_anything_is_computed(
    made, names, places, changes, message
):
    places = Places(**(vars(made.places) | places))
    with pytest.raises(UserError, match=message) as caught:
        run_sets(last_of(made, **changes), names, places)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crops": [0.9]}, "the evaluation crop 'resize' has no ratio"),
        ({"sizes": [0]}, "image size is 0; expected 1"),
    ],
)
def test_impossible_sizes_and_crops(made, options, message):
    with pytest.raises(UserError, match=message):
        run_sets(last_of(made), ["v2"], made.places, **options)


def test_a_missing_folder_of_v2_is_noticed(made, tmp_path):
    """Without folder 3, what is left would be numbered anew."""
    for label in [0, 1, 2, *range(4, CLASSES + 1)]:
        save_image(tmp_path / "v2" / str(label) / "a.jpeg", PIXELS[0])
    with pytest.raises(UserError, match="class 4 has the label 3; V2's classes are 0"):
        run_sets(last_of(made), ["v2"], Places(v2=str(tmp_path / "v2")))


# The real program.


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Runs experiments/evaluate.py on one device; gives (status, stdout, stderr)."""
    cache = tmp_path_factory.mktemp("compiled")
    return functools.partial(run_script, "evaluate.py", cache=cache)


def test_three_sets_by_one_command(made, program, tmp_path):
    flags = [f"--workdir={made.run}", "--sets=val,real,v2", f"--out={tmp_path}"]
    flags += [f"--{name}={place}" for name, place in vars(made.places).items() if place]
    status, out, err = program(*flags)
    assert status == 0, err
    assert "(last checkpoint)" in out
    found = json.loads((tmp_path / "evaluations.json").read_text())
    assert list(found) == list(EXPECTED)
    for name, want in EXPECTED.items():
        assert {key: found[name][key] for key in want} == want
        assert found[name]["ema"]["examples"] == want["examples"]


def test_weights_of_a_file_need_no_run(made, program, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(RECIPE.model, network(30), path, overrides=RECIPE.overrides)
    flags = [f"--out={tmp_path / 'out'}", "--sets=v2", f"--v2={made.places.v2}"]
    flags += ["--config=digits", f"--config.init_from={path}"]
    flags += [f"--config.model_overrides.{k}={v}" for k, v in RECIPE.overrides.items()]
    status, _, err = program(*[flag.replace(" ", "") for flag in flags])
    assert status == 0, err
    found = json.loads((tmp_path / "out" / "evaluations.json").read_text())["v2"]
    assert {key: found[key] for key in EXPECTED["v2"]} == EXPECTED["v2"]
    assert (found["checkpoint"], found["step"]) == ("file", None)
    assert "ema" not in found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            [],
            "give --workdir=RUN, or --config=NAME --config.init_from=FILE, to say",
        ),
        (["--config=digits", "--config.init_from=y"], "needs --out=DIR, where the"),
        (["--workdir=x", "--config.seed=1"], "--config.seed=1 needs --config=NAME"),
        (
            ["--workdir=x", "--config=digits", "--config.init_from=y"],
            "both name weights",
        ),
        (["--workdir=x", "--checkpoint=newest"], "expected last, best or a step"),
        (
            ["--workdir=x", "digit.png"],
            "unexpected argument 'digit.png'",
        ),
        (["--workdir=x", "--sizes=8,large"], "--sizes has 'large', which is no number"),
    ],
)
def test_mistakes_are_one_line(program, flags, message):
    status, out, err = program(*flags)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
