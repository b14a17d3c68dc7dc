"""Reward, Pareto front, step time, scaling: by hand and by the released networks."""

import re

import pytest

from effnetv2.reward import pareto_front, reward
from effnetv2.scaling import (
    SCALES,
    eval_size,
    scale_found,
    scale_stages,
    train_size,
)
from effnetv2.stage_tables import V2_BASE, V2_L, V2_M, V2_S
from nfnets.registry import get_variant
from nfnets.training.step_time import BLOCKS, compare, summarize


def test_reward_by_hand():
    assert reward(0.8, 1, 1) == 0.8
    # 2^-0.07 = 0.952638, 3^-0.05 = 0.946550
    assert reward(0.5, 2, 1) == pytest.approx(0.476319, abs=1e-6)
    assert reward(0.5, 1, 3) == pytest.approx(0.473275, abs=1e-6)
    assert reward(0.5, 2, 3) == pytest.approx(0.5 * 0.952638 * 0.946550, abs=1e-6)
    # Half the step time is worth a factor of 2^0.07 in accuracy.
    assert reward(0.8, 0.5, 1) == pytest.approx(reward(0.8 * 1.049717, 1, 1), abs=1e-6)


def test_pareto_front_by_hand():
    #         0    1    2    3    4    5    6
    costs = [1.0, 2.0, 3.0, 2.0, 4.0, 1.0, 3.0]
    gains = [0.5, 0.7, 0.6, 0.8, 0.9, 0.4, 0.8]
    # 1 and 2 are beaten by 3, 5 by 0, 6 equals 3 at a higher cost.
    assert pareto_front(costs, gains) == [0, 3, 4]
    assert pareto_front([1, 1], [0.5, 0.5]) == [0]
    assert pareto_front([], []) == []


def test_step_time_is_the_median_of_neighbours():
    # The machine is at half its speed from the third pair on: the ratio is not moved.
    pairs = [(2.0, 1.0), (2.2, 1.0), (4.0, 2.0), (4.0, 2.0), (3.8, 2.0)]
    timed = summarize(pairs)
    assert timed.ratio == 2.0
    assert (timed.seconds, timed.reference_seconds) == (3.8, 2.0)
    # Deviations of 2.2 and 1.9 from the mean 2.02 of 2, 2.2, 2, 2, 1.9.
    assert timed.spread == pytest.approx(0.0979796 / 2, abs=1e-6)


def test_steps_are_timed_in_turns():
    calls = []

    def timer(name, seconds):
        def run(steps):
            calls.append((name, steps))
            return seconds

        return run

    timed = compare(timer("candidate", 0.03), timer("backbone", 0.05))
    assert timed.ratio == pytest.approx(0.6)
    blocks = calls[4:]  # after two each to find how many steps a block has
    assert len(blocks) == 2 * BLOCKS
    # 0.2 s per block; the order is turned round after each pair.
    assert blocks[:4] == [
        ("candidate", 7), ("backbone", 4), ("backbone", 4), ("candidate", 7),
    ]  # fmt: skip


# Channels of the base's scaled groups -> released, and the group that the base has not.
S_CHANNELS = {"136": "128", "272": "256"}
M_CHANNELS = {"152": "160"}
M_LAST = ("r5_k3_s1_e6_i304_o512_se0.25",)
L_LAST = ("r7_k3_s1_e6_i384_o640_se0.25",)


@pytest.mark.parametrize(
    ("target", "channels", "last", "released"),
    [
        ("s", S_CHANNELS, (), V2_S),
        ("m", M_CHANNELS, M_LAST, V2_M),
        ("l", {}, L_LAST, V2_L),
    ],
)
def test_v2_follows_from_its_base_with_these_exceptions(
    target, channels, last, released
):
    scale = SCALES[target]
    scaled = scale_stages(
        V2_BASE, scale.width, scale.depth, late_layers=scale.late_layers
    )

    def renamed(text):
        return re.sub(
            r"_([io])(\d+)", lambda m: f"_{m[1]}{channels.get(m[2], m[2])}", text
        )

    assert (*map(renamed, scaled), *last) == released


def test_without_the_exceptions_only_these_numbers_differ():
    """What is not compound scaling in the released networks, and nothing else is."""

    def numbers(stages):
        return [text.split("_")[0::5] for text in stages]

    def scaled(target):
        scale = SCALES[target]
        return scale_stages(V2_BASE, scale.width, scale.depth)

    assert numbers(scaled("s")) == [
        ["r2", "o24"], ["r4", "o48"], ["r4", "o64"],
        ["r6", "o136"], ["r9", "o160"], ["r15", "o272"],  # released: 128, 256
    ]  # fmt: skip
    assert numbers(scaled("m")) == [
        ["r3", "o24"], ["r5", "o48"], ["r5", "o80"],
        ["r7", "o152"], ["r11", "o176"], ["r18", "o304"],  # 160; r14; and r5 x 512
    ]  # fmt: skip
    assert numbers(scaled("l")) == [
        ["r4", "o32"], ["r7", "o64"], ["r7", "o96"],
        ["r10", "o192"], ["r16", "o224"], ["r25", "o384"],  # r19; and r7 x 640
    ]  # fmt: skip


def test_sizes_are_those_of_the_released_networks():
    for name in ("s", "m", "l"):
        row, resolution = get_variant(f"effnetv2_{name}"), SCALES[name].resolution
        assert eval_size(resolution) == row.eval_size
        # V2-S: 300, which is not 0.8 of 384.
        assert train_size(resolution) == {"s": 304}.get(name, row.train_size)
        twin = {"s": "effnet_b4", "m": "effnet_b5", "l": "effnet_b7"}[name]
        scale, v1 = SCALES[name], get_variant(twin)
        assert (scale.width, scale.depth, scale.resolution) == (
            v1.width,
            v1.depth,
            v1.eval_size,
        )
    assert eval_size(800) == 480


def test_a_found_network_is_the_s_of_its_family():
    found = ("r2_k3_s1_e1_i48_o24_c1", "r4_k5_s2_e4_i24_o32_se0.25")
    assert scale_found(found, "s") == found
    # 2.0 / 1.4 and 3.1 / 1.8: 48 -> 68.6, 24 -> 34.3, 32 -> 45.7; 2 -> 3.4, 4 -> 6.9;
    # three late layers for the last group, as none but the first has stride 1.
    assert scale_found(found, "l") == (
        "r4_k3_s1_e1_i72_o32_c1",
        "r10_k5_s2_e4_i32_o48_se0.25",
    )
