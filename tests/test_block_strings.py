"""Groups of blocks as strings: what they mean, and what is said of bad ones."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from effnetv2.block_strings import StageSpec, format_stage, parse_stage, parse_stages
from nfnets.errors import UserError

FUSED = StageSpec(
    repeats=4,
    kernel=3,
    stride=2,
    expansion=4,
    in_channels=24,
    out_channels=48,
    se_ratio=None,
    fused=True,
)


def test_a_string_by_hand():
    assert parse_stage("r4_k3_s2_e4_i24_o48_c1") == FUSED
    plain = dataclasses.replace(FUSED, se_ratio=0.25, fused=False)
    assert parse_stage("r4_k3_s2_e4_i24_o48_se0.25") == plain
    assert parse_stage("r4_k3_s2_e4_i24_o48_se0.25_c0") == plain
    assert format_stage(FUSED) == "r4_k3_s2_e4_i24_o48_c1"
    assert format_stage(plain) == "r4_k3_s2_e4_i24_o48_se0.25"


def test_formatting_is_the_inverse_of_parsing():
    choices = itertools.product(
        (1, 12),
        (3, 5),
        (1, 2),
        (1, 4, 6),
        (None, 0.25, 1.0, 0.001, 1 / 3),
        (False, True),
    )
    for repeats, kernel, stride, expansion, se_ratio, fused in choices:
        spec = StageSpec(repeats, kernel, stride, expansion, 16, 512, se_ratio, fused)
        assert parse_stage(format_stage(spec)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"'' is not a group of blocks.*like 'r2_k3"),
        ("r2_k3_s2_e4_i16", r"'r2_k3_s2_e4_i16' is not a group"),
        ("r2_k3_s2_e4_i16_o32_c2", "is not a group"),
        ("r2_k3_s2_e4_i16_o32_c1_se0.25", "is not a group"),
        ("r2_k3_s2_e4_i16_o32\n", "is not a group"),
        ("r-1_k3_s2_e4_i16_o32", "is not a group"),
        ("r2_k3_s2_e1.5_i16_o32", "is not a group"),
        ("r0_k3_s2_e4_i16_o32", r"'r0_k3_s2_e4_i16_o32': r0 should be at least r1"),
        ("r2_k0_s2_e4_i16_o32", "k0 should be at least k1"),
        ("r2_k3_s0_e4_i16_o32", "s0 should be at least s1"),
        ("r2_k3_s2_e0_i16_o32", "e0 should be at least e1"),
        ("r2_k3_s2_e4_i0_o32", "i0 should be at least i1"),
        ("r2_k3_s2_e4_i16_o0", "o0 should be at least o1"),
        ("r2_k3_s2_e4_i16_o32_se0", r"se0\.0 should be from 0\.001 to 1; leave it out"),
        ("r2_k3_s2_e4_i16_o32_se1.5", r"se1\.5 should be from"),
    ],
)
def test_bad_strings_are_named(text, message):
    with pytest.raises(UserError, match=message) as error:
        parse_stage(text)
    assert "\n" not in str(error.value)


def test_channels_must_fit_from_group_to_group():
    first, second = "r1_k3_s1_e1_i8_o16_c1", "r2_k3_s2_e4_i16_o32_se0.25"
    assert [s.out_channels for s in parse_stages([first, second])] == [16, 32]
    with pytest.raises(UserError, match=r"takes 8 channels.* gives 32; write i32"):
        parse_stages([first, second, first])
    with pytest.raises(UserError, match="at least one group"):
        parse_stages(())


def test_a_row_that_no_string_can_hold_is_not_formatted():
    with pytest.raises(UserError, match="r0 should be"):
        format_stage(dataclasses.replace(FUSED, repeats=0))
