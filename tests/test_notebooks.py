"""The notebooks run, and print and conclude what their stored outputs show."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile

import matplotlib
import matplotlib.pyplot as plt
import pytest
from helpers import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def cells(name):
    return json.loads((FOLDER / f"{name}.ipynb").read_text("utf-8"))["cells"]


def printed(cell):
    return "".join(
        "".join(output["text"])
        for output in cell["outputs"]
        if output["output_type"] == "stream"
    )


def shape_of(text):
    """Without numbers, and without the spaces that pad them."""
    return re.sub(r"[\d.]+", "0", text).split()


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Name of a notebook -> its variables after all cells, which print as stored."""
    matplotlib.use("Agg")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))

    def execute(name):
        variables = {}
        for cell in cells(name):
            if cell["cell_type"] == "code":
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    exec("".join(cell["source"]), variables)
                assert shape_of(out.getvalue()) == shape_of(printed(cell))
        return variables

    return execute


def test_clipping_saves_the_large_learning_rate(run):
    results = run("agc_in_your_project")["results"]
    accuracies = {key: accuracy for key, (_, _, accuracy) in results.items()}
    assert accuracies["without", 0.3] < 0.2  # a guess is right in 0.1
    assert min(accuracies["with", 0.3], accuracies["with", 0.02]) > 0.9
    assert accuracies["without", 0.02] > 0.9


def test_the_picture_is_recognised(run):
    variables = run("classify_an_image")
    label = variables["test"].labels[variables["index"]]
    assert variables["probabilities"].argmax() == label
    assert (variables["data"].labels[variables["nearest"]] == label).mean() > 0.5
    assert variables["accuracy"] > 0.9


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_outputs_are_small_whole_and_of_no_machine(name):
    text = (FOLDER / f"{name}.ipynb").read_text("utf-8")
    assert len(text) < 60_000
    assert text.count('"image/png"') == 1
    assert not re.search(r"/(tmp|home|work|root|Users)/", text)
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    assert not any(o["output_type"] == "error" for c in code for o in c["outputs"])
    links = re.findall(r"\]\(((?:\.\./)?[\w./]+\.md)\)", text)
    assert links
    assert all((FOLDER / link).exists() for link in links)
