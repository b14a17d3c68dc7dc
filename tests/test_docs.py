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


ROWS = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| (\d+) \|", README, re.M)


# The official counter has fractional feature maps for these (README, Networks).
FRACTIONAL = {"nf_regnet_b2", "nf_regnet_b5", "nf_regnet_b6", "nf_regnet_b7"}


def efficientnet_row(model, golden):
    """Parameters, GMACs and size as the table should show them."""
    counts = golden("effnetv2_counts")
    name, _, last = model.partition("_fused_1_")
    if last:
        params, macs = counts["fused"]["fit"][last]
    else:
        params, macs = counts[name]["params"] / 1e6, counts[name]["gmacs"]
    return f"{params:.2f}", f"{macs:.2f}", str(counts[name]["eval_size"])


def resnet_row(model, golden):
    """The same of the ResNets that timm has too, and of ResNet-RS."""
    counts = golden("resnet_timm")[model]
    size, macs = next(iter(counts["macs"].items()))  # the smallest
    return f"{counts['params'] / 1e6:.2f}", f"{macs / 1e9:.2f}", size


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_readme_table_shows_the_official_numbers(golden, row):
    model, params, macs, image_size = row
    if model.startswith("effnet"):
        assert (params, macs, image_size) == efficientnet_row(model, golden)
        return
    if model in golden("resnet_timm"):
        assert (params, macs, image_size) == resnet_row(model, golden)
        return
    timm = golden("timm_regnet_vit")["counts"].get(model)
    if timm is not None:
        assert f"{timm['params'] / 1e6:.2f}" == params
        assert f"{timm[f'macs_{image_size}'] / 1e9:.2f}" == macs
        return
    counts = golden("nfnet_counts").get(model)
    if counts is None:  # the official repository has no SE form of these depths
        assert model in ("nf_seresnet288", "nf_seresnet600")
        return
    assert f"{counts['params'] / 1e6:.2f}" == params
    if "macs" in counts and model not in FRACTIONAL:
        assert f"{counts['macs'][image_size] / 1e9:.2f}" == macs


# The tables of google/automl and tensorflow/tpu, and EfficientNetV2's Table 3.
EFFICIENTNET_TOP1 = {
    **{"effnetv2_b0": "78.7", "effnetv2_b1": "79.8", "effnetv2_b2": "80.5"},
    **{"effnetv2_b3": "82.1", "effnetv2_s": "83.9", "effnetv2_m": "85.2"},
    **{"effnetv2_l": "85.7", "effnetv2_xl": "87.2 (21k)"},
    **{"effnet_b0": "77.1", "effnet_b1": "79.1", "effnet_b2": "80.1"},
    **{"effnet_b3": "81.6", "effnet_b4": "82.9", "effnet_b5": "83.6"},
    **{"effnet_b6": "84.0", "effnet_b7": "84.3", "effnet_b8": "85.5 (AdvProp)"},
    **{"effnet_b4_fused_1_3": "83.1", "effnet_b4_fused_1_5": "83.1"},
    **{"effnet_b4_fused_1_7": "81.7", "effnet_l2": ""},
}


def test_readme_shows_the_published_accuracy_of_the_efficientnets():
    rows = re.findall(r"^\| `(effnet\w+)` \|.*\| *([^|]*?) *\|$", README, re.M)
    assert dict(rows) == EFFICIENTNET_TOP1


# ResNet-RS: the paper's, at the smallest image size of a depth. The others: timm's
# measure of the weights of procedure A1 (ResNet strikes back) at 224 px.
RESNET_TOP1 = {
    **{"resnet18": "71.5 (A1)", "resnet34": "76.4 (A1)", "resnet50": "80.4 (A1)"},
    **{"resnet101": "81.5 (A1)", "resnet152": "82.0 (A1)", "resnet50d": "80.7 (A1)"},
    **{"seresnet50": "80.0 (A1)", "resnext50_32x4d": "80.5 (A1)", "senet154": ""},
    **{"resnet_rs_50": "78.8", "resnet_rs_101": "80.3", "resnet_rs_152": "82.0"},
    **{"resnet_rs_200": "83.4", "resnet_rs_270": "83.8", "resnet_rs_350": "84.0"},
    **{"resnet_rs_420": "84.4"},
}


def test_readme_shows_the_published_accuracy_of_the_resnets():
    rows = re.findall(
        r"^\| `((?:se)?resne\w+|senet154)` \|.*\| *([^|]*?) *\|$", README, re.M
    )
    assert dict(rows) == RESNET_TOP1


# The model zoos of pycls (100 minus its error) and of DeiT.
REGNET_AND_VIT_TOP1 = {
    **{"regnety_4gf": "79.4", "regnety_8gf": "79.9", "regnety_16gf": "80.4"},
    **{"regnety_32gf": "81.0"},
    **{"deit_ti": "72.2", "deit_s": "79.9", "vit_b": "81.8"},
}


def test_readme_shows_the_published_accuracy_of_regnets_and_transformers():
    rows = re.findall(
        r"^\| `((?:regnety|deit|vit)_\w+)` \|.*\| *([^|]*?) *\|$", README, re.M
    )
    assert dict(rows) == REGNET_AND_VIT_TOP1


def test_readme_table_has_every_model():
    assert sorted(row[0] for row in ROWS) == list_models()


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
