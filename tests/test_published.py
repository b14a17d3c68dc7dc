"""The table of published numbers: its laws, and its reasons for differences."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal

import jax
import pytest
from golden_counts import outside_counts

from nfnets.count_comparison import compare, compare_models, half_a_digit
from nfnets.flops import Counts, abstract_variables
from nfnets.model_table import COMPARISON_COLUMNS, comparison_record, lines
from nfnets.published import GARDEN, PUBLISHED, TIMM_COUNTS, headline, published
from nfnets.registry import create_model, get_variant, list_models


def test_rows_are_of_our_models_and_say_something_once():
    assert {row.model for row in PUBLISHED} <= set(list_models())
    keys = Counter(
        (row.model, row.source, row.image_size, row.training) for row in PUBLISHED
    )
    assert set(keys.values()) == {1}
    for row in PUBLISHED:
        numbers = (row.params_m, row.gmacs, row.activations_m, row.top1)
        assert any(number is not None for number in numbers)
        assert row.top1 is None or 50 < row.top1 < 100


def test_nothing_from_memory_is_a_headline():
    assert any(row.source.kind == "memory" for row in PUBLISHED)
    for name in list_models():
        best = headline(name)
        assert best is None or best.source.kind == "published"
        if best is not None and best.image_size is not None:
            assert best.image_size == get_variant(name).eval_size


@pytest.mark.parametrize(
    ("printed", "half"), [("71.5", "0.05"), ("145.0", "0.05"), ("22", "0.5")]
)
def test_rounding_is_that_of_the_printed_digits(printed, half):
    assert half_a_digit(Decimal(printed)) == Decimal(half)


def test_a_reason_stands_where_a_count_differs_and_only_there(golden):
    """With the counts that others made of our networks, which ours equal."""
    judged = 0
    for row in PUBLISHED:
        params, macs = outside_counts(golden, row.model)
        size = row.image_size or get_variant(row.model).eval_size
        official = row.source.name.startswith("NFNets code")
        if row.gmacs is not None and (size not in macs or official):
            continue
        counts = Counts(
            params, macs.get(size, 0), round((row.activations_m or 0) * 10**6)
        )
        found = list(compare(row, counts, size))
        differs = any(not comparison.within_rounding for comparison in found)
        assert differs == bool(row.why), row
        judged += len(found)
    assert judged > 150


def test_official_counts_are_those_of_the_goldens(golden):
    """NF-RegNets' multiply-adds too, which are of fractional feature maps."""
    for row in PUBLISHED:
        if row.source.kind != "counted":
            continue
        params, macs = outside_counts(golden, row.model)
        assert row.params_m * 10**6 == params
        if row.gmacs is not None:
            gmacs = macs[get_variant(row.model).eval_size] / 1e9
            assert str(row.gmacs) == f"{gmacs:.3f}"


BATCH_NORM = ["resnet18", "seresnet50", "effnet_b0", "effnetv2_b0", "regnety_4gf"]


@pytest.mark.parametrize("model", [*BATCH_NORM, "nfnet_f0", "deit_ti"])
def test_activations_are_those_of_timm_and_pycls(model):
    found = [c for c in compare_models([model]) if c.quantity == "activations (M)"]
    assert found
    assert all(comparison.within_rounding for comparison in found)


@pytest.mark.parametrize("model", BATCH_NORM)
def test_timm_adds_two_operations_per_number_of_batch_norm(model):
    counts = {
        c.quantity: c for c in compare_models([model]) if c.source == TIMM_COUNTS.name
    }
    macs, activations = counts["GMACs"], counts["activations (M)"]
    with_norm = macs.ours + 2 * activations.ours / 1000
    assert abs(with_norm - macs.published) <= half_a_digit(macs.published)


@pytest.mark.parametrize("depth", [50, 101])
def test_model_garden_counts_the_moving_statistics(depth):
    name = f"resnet_rs_{depth}"
    variables = abstract_variables(create_model(name, num_classes=1000), 32)
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))
    (row,) = (row for row in published(name) if row.source == GARDEN)
    assert f"{total / 1e6:.1f}" == str(row.params_m)


def test_comparison_marks_memory_and_missing_reasons():
    (row,) = (r for r in published("effnetv2_xl") if r.source.kind == "memory")
    first, second = compare(row, Counts(300_000_000, 94_000_000_000, 0), 512)
    shown = [comparison_record(first), {**comparison_record(second), "why": ""}]
    table = list(lines(shown, COMPARISON_COLUMNS, "table"))
    assert "208 (from memory)" in table[1]
    assert "+44.23 %" in table[1]
    assert "from memory; the released" in table[1]
    assert table[2].endswith("rounding")
    shown[1]["within_rounding"] = False
    assert list(lines(shown, COMPARISON_COLUMNS, "table"))[2].endswith("NOT EXPLAINED")
