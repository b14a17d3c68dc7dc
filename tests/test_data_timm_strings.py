"""timm's policy strings, against what timm makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import plain_augment

from nfnets.data.augment_config import check_augment
from nfnets.data.timm_policy import parse
from nfnets.errors import UserError

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "timm_randaugment.json").read_text("utf-8")
)


@pytest.mark.parametrize("text", GOLDEN["rand_strings"])
def test_rand_strings_mean_what_they_mean_to_timm(text):
    fields, expected = parse(text), GOLDEN["rand_strings"][text]
    noise = fields.pop("randaugment_noise")
    assert fields == {
        "semantics": "timm",
        "autoaugment": None,
        "randaugment_layers": expected["layers"],
        "randaugment_magnitude": expected["magnitude"],
        "randaugment_rate": expected["rate"],
        "randaugment_increasing": expected["increasing"],
    }
    if expected["noise"] == "inf":
        assert noise > 100  # what draw_randaugment takes for a uniform magnitude
    else:
        assert noise == expected["noise"]


@pytest.mark.parametrize("text", GOLDEN["autoaugment_strings"])
def test_autoaugment_strings_mean_what_they_mean_to_timm(text):
    expected = GOLDEN["autoaugment_strings"][text]
    fields = parse(text)
    assert fields["semantics"] == "timm"
    assert fields["autoaugment"] == expected["autoaugment"]
    assert fields["randaugment_noise"] == expected["noise"]
    assert fields["randaugment_layers"] == 0


@pytest.mark.parametrize(
    "text", [*GOLDEN["rand_strings"], *GOLDEN["autoaugment_strings"]]
)
def test_parsed_settings_are_settings(text):
    check_augment(plain_augment(**parse(text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rand-q5", "'q5'; expected one of m, n, p, mstd, mmax, inc, with a number"),
        ("rand-m7-mstd", "'mstd'; expected one of"),
        ("rand-m", "'m'; expected one of"),
        ("rand-", "''; expected one of"),
        ("rand-mstdinf", "'mstdinf'; expected one of"),
        ("rand-m7.5", "'m7.5'; expected a whole number after m"),
        ("rand-p0.5.5", "'p0.5.5'; expected a number after p"),
        ("rand-p2", "'p2'; expected a probability, 0 to 1, after p"),
        ("rand-m9-mmax20", "'mmax20'; only mmax10 is supported"),
        ("rand-m9-w0", "'w0': other sets of operations and weighted choices"),
        ("rand-m9-tweights", "'tweights': other sets of operations and weighted"),
        ("rand-t3a", "'t3a': other sets of operations"),
        ("rand-m9-m8", "'rand-m9-m8' has m twice"),
        ("original-m9", "'m9'; expected one of mstd, with a number"),
        ("v0-mstd0.5-mstd1", "has mstd twice"),
        ("augmix-m5-w4", "is 'augmix'; expected rand, v0, v0r, original, originalr"),
        ("", "is ''; expected rand, v0"),
    ],
)
def test_other_strings_are_refused(text, message):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert message in str(caught.value)
