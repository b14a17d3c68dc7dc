"""``experiments/models.py``: the table, the comparison, the forms and the mistakes."""

from __future__ import annotations

import csv
import importlib.util
import json

import pytest
from helpers import ROOT

from nfnets.registry import list_models

README = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def script():
    path = ROOT / "experiments" / "models.py"
    spec = importlib.util.spec_from_file_location("models_command", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_what_the_command_prints(script, capsys):
    models = ["nf_regnet_b0", "effnetv2_b1", "resnet_rs_50", "deit_s"]
    assert script.main([*models, "--format=markdown"]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    start = README.index(head)
    assert README[start + 1] == rule
    assert rows == [line for line in README[start:] if line in rows]  # and the order
    assert len(rows) == len(models)


def test_csv_and_json_hold_all_digits(script, capsys):
    assert script.main(["resnet18", "deit_ti", "--format=csv"]) == 0
    first, second = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (first["params"], first["macs"]) == ("11689512", "1814073344")
    assert (first["published_top1"], first["training"]) == ("71.504", "A1")
    assert (second["train_size"], second["published_gmacs"]) == ("224", "")
    assert script.main(["resnet18", "--format=json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["activations"] == 2_484_712
    assert record["url"].startswith("https://")


def test_comparison_ends_with_what_agrees(script, capsys):
    assert script.main(["resnet18", "nf_resnet50", "fixup_resnet50", "--compare"]) == 0
    *_, verdicts, silent = capsys.readouterr().out.splitlines()
    assert verdicts == "4 compared, 3 within rounding, 1 different, 0 from memory"
    assert silent == "no source has counts of: fixup_resnet50"


def test_families_keep_the_order_of_their_tables(script):
    assert script.select(["effnetv2_[sml]", "nfnet_f1*"]) == [
        *("nfnet_f1", "nfnet_f1_plus"),
        *("effnetv2_s", "effnetv2_m", "effnetv2_l"),
    ]
    assert sorted(script.select([])) == list_models()


def test_a_pattern_without_a_model_is_named(script, capsys):
    assert script.main(["resnet18", "nfnet_x1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: no model matches 'nfnet_x1'; did you mean")
