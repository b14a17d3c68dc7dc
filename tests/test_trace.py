"""What a trace says of a device's time."""

from __future__ import annotations

import jax
import pytest

from nfnets.step_benchmark import trace
from nfnets.step_benchmark.trace import Interval, summarize


def test_busy_is_the_union_of_what_runs():
    time = summarize(
        [
            Interval("loop_fusion_3", 5_000, 7_000),
            Interval("conv_1", 1_000, 3_000),
            Interval("copy", 2_000, 4_000),  # beside conv_1
            Interval("loop_fusion", 9_000, 11_000),
            Interval("inside", 9_500, 9_600),
        ]
    )
    assert time.seconds == pytest.approx(10e-6)
    assert time.busy == pytest.approx(0.7)  # 1-4, 5-7, 9-11 of 1-11
    assert time.kinds[0] == ("loop_fusion", pytest.approx(0.4))
    assert dict(time.kinds)["conv"] == pytest.approx(0.2)
    assert trace.format_device_time(time).splitlines()[0] == (
        "device   busy 70.0% of 0.0 ms traced"
    )


def test_nothing_traced_says_nothing():
    assert summarize([]) is None


def test_a_cpus_trace_has_no_device(tmp_path):
    with trace.record(str(tmp_path)):
        jax.block_until_ready(jax.numpy.ones(3) + 1)
    assert trace.read_device_time(str(tmp_path)) is None
