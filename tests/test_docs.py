"""What the documentation shows must run, and what it lists must exist."""

import importlib.util
import re
import subprocess
import sys

import pytest
from golden_counts import outside_counts
from helpers import CONFIG_DIR, ROOT

from nfnets.flops import Counts
from nfnets.model_table import NETWORK_COLUMNS, markdown_line, network_record
from nfnets.published import published
from nfnets.registry import get_variant, list_models
from nfnets.training.config_files import list_configs

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_agc_page_runs():
    (example,) = CODE.findall((ROOT / "docs" / "agc.md").read_text(encoding="utf-8"))
    check = "\nassert float(state[0].inner_state.clipped) == 1.0"
    subprocess.run([sys.executable, "-c", example + check], check=True)


def test_features_page_runs(capsys):
    page = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
    example, _ = CODE.findall(page)
    exec(example, {})
    found = re.search(r"linear probe: ([\d.]+)", capsys.readouterr().out)
    shown = re.search(r"\(([\d.]+) of the test images here", page)
    assert float(found[1]) == pytest.approx(float(shown[1]), abs=0.03)


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?://)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_files_exist():
    table = README.split("## Map of the files")[1].split("## ")[0]
    first_cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    folder = ""
    for cell in first_cells:
        for name in re.findall(r"`([^`]+)`", cell):
            folder = name.rpartition("/")[0] or folder
            path = ROOT / (name if "/" in name else f"{folder}/{name}")
            assert path.exists(), name


NETWORKS = README.split("## Networks")[1].split("\n## ")[0]
ROWS = {
    name: [cell.strip() for cell in line.split("|")[1:-1]]
    for line, name in re.findall(r"^(\| `(\w+)` \|.*\|)$", NETWORKS, re.MULTILINE)
}
COLUMNS = {column.title: index for index, column in enumerate(NETWORK_COLUMNS)}
COUNTED = ("parameters (M)", "GMACs", "activations (M)")

# The official counter has fractional feature maps for these.
FRACTIONAL = {"nf_regnet_b2", "nf_regnet_b5", "nf_regnet_b6", "nf_regnet_b7"}


@pytest.mark.parametrize("model", ROWS)
def test_readme_shows_the_counts_of_others(golden, model):
    shown = {title: ROWS[model][COLUMNS[title]] for title in (*COUNTED, "at px")}
    counts = outside_counts(golden, model)
    if counts is None:
        assert model in ("nf_seresnet288", "nf_seresnet600")
        return
    params, macs = counts
    assert shown["parameters (M)"] == f"{params / 1e6:.2f}"
    if macs and model not in FRACTIONAL:
        assert shown["GMACs"] == f"{macs[int(shown['at px'])] / 1e9:.2f}"
    for row in published(model):
        here = row.image_size in (None, int(shown["at px"]))
        if row.activations_m is not None and here:
            digits = -int(row.activations_m.as_tuple().exponent)
            activations = float(shown["activations (M)"])
            assert f"{activations:.{digits}f}" == str(row.activations_m)


@pytest.mark.parametrize("model", ROWS)
def test_readme_shows_what_is_published(model):
    """All but the counts, which would have to be traced."""
    line = markdown_line(network_record(model, Counts(0, 0, 0)), NETWORK_COLUMNS)
    for title, cell in zip(COLUMNS, line.split("|")[1:-1], strict=True):
        if title not in COUNTED:
            assert ROWS[model][COLUMNS[title]] == cell.strip()


def test_readme_table_has_every_model():
    assert sorted(ROWS) == list_models()


CARDS = sorted((ROOT / "docs" / "models").glob("*.md"))


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_model_cards_name_what_exists(card):
    text = card.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?://)([^)#]+)", text)
    assert [link for link in links if not (card.parent / link).exists()] == []
    recipes = text.split("| config | recipe |")[1].split("\n\n")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", recipes, re.MULTILINE)
    configs = re.findall(r"`(\w+)`", "".join(first_cells))
    assert configs
    assert set(configs) <= set(list_configs(CONFIG_DIR))


@pytest.mark.parametrize(
    ("card", "pattern"), [("effnetv2", "effnet*"), ("resnet_rs", "resnet_rs*")]
)
def test_model_cards_show_every_published_accuracy(card, pattern):
    text = (ROOT / "docs" / "models" / f"{card}.md").read_text(encoding="utf-8")
    expected = []
    for model in list_models(pattern):
        for row in published(model):
            px = row.image_size or get_variant(model).eval_size
            if row.top1 is not None:
                expected.append(
                    f"| `{model}` | {px} | {row.top1} | {row.training} "
                    f"| {row.source.name} |"
                )
    shown = re.findall(r"^\| `\w+` \| \d+ \|.*$", text, re.MULTILINE)
    assert sorted(shown) == sorted(expected)


def test_api_page_names_modules_that_exist():
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    modules = re.findall(r"`((?:nfnets|effnetv2|resnet_rs)\.[\w.]+)`", text)
    assert len(modules) > 8
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_every_deliberate_difference_is_in_the_readme():
    """The README's list has one entry for each `Differs:` of the code."""
    marks = 0
    patterns = (
        "nfnets/**/*.py",
        "effnetv2/**/*.py",
        "resnet_rs/**/*.py",
        "experiments/**/*.py",
    )
    for path in [path for pattern in patterns for path in ROOT.glob(pattern)]:
        marks += len(re.findall(r"Differs:", path.read_text(encoding="utf-8")))
    section = README.split("## Where we differ")[1]
    assert len(re.findall(r"^- ", section, re.MULTILINE)) >= 5
    assert marks == int(re.search(r"(\d+) places", section)[1])
