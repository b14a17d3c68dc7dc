"""Predictions of image files: the numbers, the files, and the real program."""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from helpers import run_script, with_changes
from PIL import Image
from saved_run import CLASSES, PIXELS, RECIPE, network, save_run

from nfnets.data.image_files import find_images
from nfnets.errors import UserError
from nfnets.training import predict as prediction_module
from nfnets.training import predict_images as predict_images_module
from nfnets.training import tested_weights, workdir
from nfnets.training.predict import predict
from nfnets.training.predict_images import Asked, predict_images

# The eighth of nine images is damaged.
COUNT, DAMAGED = 9, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """``PIXELS`` as PNG files, in subfolders so that their order is that of numbers."""
    root = tmp_path_factory.mktemp("images")
    for i in range(COUNT):
        path = root / str(i // 3) / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS[i]).save(path)
    whole = path.parent / f"{DAMAGED}.png"
    whole.write_bytes(whole.read_bytes()[:100])
    (root / "0" / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> epath.Path:
    """A run whose data are gone, but not the names of its classes."""
    path = tmp_path_factory.mktemp("run") / "run"
    recipe = with_changes(RECIPE, data__source="folder:/nowhere", eval__batch_size=4)
    save_run(path, {30: 0.5}, recipe)
    names = ["n01440764", *(f"class {i}" for i in range(1, CLASSES))]
    workdir.keep_class_names(epath.Path(path), names)
    return epath.Path(path)


@pytest.fixture(scope="module")
def probabilities() -> dict[str, np.ndarray]:
    """Of the weights and of the average, [COUNT, CLASSES], in float64."""
    model = RECIPE.create_model()
    apply = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    images = ((PIXELS[:COUNT] / 255 - mean) / std).astype(np.float32)
    found = {}
    for prefix, seed in (("eval", 30), ("eval_ema", 31)):
        logits = np.asarray(apply(network(seed), images), np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        found[prefix] = powers / powers.sum(axis=1, keepdims=True)
    return found


def test_files_folders_and_patterns(folder):
    names = [f"{folder}/{i // 3}/{i}.png" for i in range(COUNT)]
    assert find_images([str(folder)]) == names
    assert find_images([names[4], f"{folder}/1"]) == [names[4], names[3], names[5]]
    assert find_images([f"{folder}/*/[13].png"]) == [names[1], names[3]]
    assert find_images([f"{folder}/[12]"]) == names[3:]
    assert find_images([f"{folder}/0/notes.txt"]) == [f"{folder}/0/notes.txt"]
    (folder / "empty").mkdir(exist_ok=True)
    for place, message in (
        (f"{folder}/10.png", "10.png does not exist, and no file matches it"),
        (f"{folder}/empty", "empty has no images"),
        ("gs://bucket/images", "local disks"),
    ):
        with pytest.raises(UserError, match=message):
            find_images([place])


@pytest.mark.parametrize("prefix", ["eval", "eval_ema"])
def test_the_numbers_are_those_of_the_network(
    run, folder, probabilities, prefix, monkeypatch
):
    """On four devices, in batches of four, the last of which is padded."""
    traced: list[None] = []
    make = prediction_module.make_predict_step

    def counted(*args):
        step = make(*args)
        return lambda *given: traced.append(None) or step(*given)

    monkeypatch.setattr(prediction_module, "make_predict_step", counted)
    tested = tested_weights.read_run_weights(run, None, None, str)
    paths = find_images([str(folder)])
    batches = list(predict(tested, paths, prefix=prefix, top_k=3))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert len(traced) == 1
    want = probabilities[prefix]
    found = [prediction for batch in batches for prediction in batch]
    assert [prediction.path for prediction in found] == paths
    for i, prediction in enumerate(found):
        if i == DAMAGED:
            assert (prediction.labels, prediction.probabilities) == ((), ())
            assert prediction.damage
            continue
        order = tuple(np.argsort(-want[i])[:3].tolist())
        assert prediction.labels == order
        np.testing.assert_allclose(
            prediction.probabilities, want[i][list(order)], rtol=1e-4
        )
        assert prediction.damage is None


def test_fewer_classes_than_asked_for(run, folder):
    tested = tested_weights.read_run_weights(run, None, None, str)
    path = f"{folder}/0/0.png"
    ((one,),) = predict(tested, [path], prefix="eval", top_k=99)
    assert sorted(one.labels) == list(range(CLASSES))
    assert sum(one.probabilities) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="--top_k is 0; expected 1 or more"):
        list(predict(tested, [path], prefix="eval", top_k=0))


def test_what_is_done_when_stopped_is_written(run, folder, tmp_path):
    tested = tested_weights.read_run_weights(run, None, None, str)
    table = epath.Path(tmp_path / "new" / "table.json")
    paths = find_images([str(folder)])
    asked = Asked(raw=True, top_k=2, table=table, grid=None)
    done = predict_images(tested, paths, asked, log=str, stop_requested=lambda: True)
    assert len(done) == 4
    rows = json.loads(table.read_text())
    assert [row["path"] for row in rows] == paths[:4]


@pytest.mark.parametrize("kind", ["table", "grid"])
def test_files_that_cannot_be_written_are_noticed_first(
    run, folder, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(predict_images_module, "predict", None)
    tested = tested_weights.read_run_weights(run, None, None, str)
    (tmp_path / "file").write_text("")
    files = {"table": None, "grid": None}
    files[kind] = epath.Path(tmp_path / "file" / "new" / "a.csv")
    asked = Asked(raw=True, top_k=2, **files)
    with pytest.raises(UserError, match=r"cannot write .*/a.csv: Not a directory; giv"):
        predict_images(tested, [str(folder)], asked, log=str, stop_requested=bool)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Runs experiments/predict.py on one device; gives (status, stdout, stderr)."""
    cache = tmp_path_factory.mktemp("compiled")
    return functools.partial(run_script, "predict.py", cache=cache)


def test_the_program(run, folder, program, probabilities, tmp_path):
    """A run needs no further flag; the damaged image is named, the others predicted."""
    places = [f"{folder}/2", f"--out={tmp_path / 'a.csv'}", "--top_k=2"]
    places += [f"--grid={tmp_path / 'a.png'}", f"{folder}/0/0.png"]
    status, out, err = program(f"--workdir={run}", *places)
    assert status == 2
    assert err == f"error: 1 of 4 images cannot be read: {folder}/2/7.png\n"
    names = ["tench", *(f"class {i}" for i in range(1, CLASSES))]
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [Path(row["path"]).stem for row in rows] == ["6", "7", "8", "0"]
    for row, i in zip(rows, (6, 7, 8, 0), strict=True):
        assert bool(row["error"]) == (i == DAMAGED)
        if i == DAMAGED:
            assert row["name_1"] == ""
            continue
        order = np.argsort(-probabilities["eval_ema"][i])
        for rank in (1, 2):
            label = int(order[rank - 1])
            assert row[f"label_{rank}"] == str(label)
            assert row[f"name_{rank}"] == names[label]
        assert f"{row['path']}  {row['name_1']}" in out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "3 of 4 images" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=x"], "name images: files, folders or patterns"),
        (["--workdir=x", "--out=a.parquet", "x.png"], "ends in none of .csv, .json"),
    ],
)
def test_mistakes_are_one_line(program, arguments, message):
    status, out, err = program(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_one_image_on_four_devices_is_one_small_batch(run, folder, monkeypatch):
    """Padding is no more than the devices need, whatever the evaluation's batch."""
    shapes: list[tuple[int, ...]] = []
    place = prediction_module.parallel.place_batch

    def kept(batch):
        shapes.append(batch["image"].shape)
        return place(batch)

    monkeypatch.setattr(prediction_module.parallel, "place_batch", kept)
    tested = tested_weights.read_run_weights(run, None, None, str)
    list(predict(tested, [f"{folder}/0/0.png"], prefix="eval", top_k=1))
    assert shapes == [(jax.device_count(), 1, 8, 8, 3)]
