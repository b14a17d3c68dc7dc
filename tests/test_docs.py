"""What the documentation shows must run, and what it lists must exist."""

import re
import subprocess
import sys

import pytest
from helpers import ROOT

from nfnets.registry import list_models

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_agc_page_runs():
    (example,) = CODE.findall((ROOT / "docs" / "agc.md").read_text(encoding="utf-8"))
    check = "\nassert float(state[0].inner_state.clipped) == 1.0"
    subprocess.run([sys.executable, "-c", example + check], check=True)


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


ROWS = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| (\d+) \|", README, re.M)


# The official counter has fractional feature maps for these (README, Networks).
FRACTIONAL = {"nf_regnet_b2", "nf_regnet_b5", "nf_regnet_b6", "nf_regnet_b7"}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_readme_table_shows_the_official_numbers(golden, row):
    model, params, macs, image_size = row
    counts = golden("nfnet_counts").get(model)
    if counts is None:  # the official repository has no SE form of these depths
        assert model in ("nf_seresnet288", "nf_seresnet600")
        return
    assert f"{counts['params'] / 1e6:.2f}" == params
    if "macs" in counts and model not in FRACTIONAL:
        assert f"{counts['macs'][image_size] / 1e9:.2f}" == macs


def test_readme_table_has_every_model():
    assert sorted(row[0] for row in ROWS) == list_models()


def test_every_deliberate_difference_is_in_the_readme():
    """The README's list has one entry for each `Differs:` of the code."""
    marks = 0
    patterns = ("nfnets/**/*.py", "effnetv2/**/*.py", "experiments/**/*.py")
    for path in [path for pattern in patterns for path in ROOT.glob(pattern)]:
        marks += len(re.findall(r"Differs:", path.read_text(encoding="utf-8")))
    section = README.split("## Where we differ")[1]
    assert len(re.findall(r"^- ", section, re.MULTILINE)) >= 5
    assert marks == int(re.search(r"(\d+) places", section)[1])
