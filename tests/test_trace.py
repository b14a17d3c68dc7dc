"""What a trace says of a device's time."""

from __future__ import annotations

from types import SimpleNamespace

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


def test_nothing_traced_says_nothing():
    assert summarize([]) is None


def test_a_cpus_trace_has_no_device(tmp_path):
    for _ in range(2):
        with trace.record(str(tmp_path)):
            jax.block_until_ready(jax.numpy.ones(3) + 1)
    assert trace.read_device_time(str(tmp_path)) is None
    assert trace.describe_device_time(str(tmp_path)) == []


def test_device_time_in_words(tmp_path, monkeypatch):
    event = SimpleNamespace(name="loop_fusion_2", start_ns=0, duration_ns=4_000_000)
    stream = SimpleNamespace(name="Stream #14(Compute)", events=[event])
    host = SimpleNamespace(name="python3", events=[event] * 2)
    planes = [
        SimpleNamespace(name="/host:CPU", lines=[host]),
        SimpleNamespace(name="/device:GPU:0", lines=[stream]),
    ]
    data = SimpleNamespace(from_file=lambda path: SimpleNamespace(planes=planes))
    monkeypatch.setattr(jax.profiler, "ProfileData", data)
    (tmp_path / "host.xplane.pb").touch()
    assert trace.describe_device_time(str(tmp_path)) == [
        "device   busy 100.0% of 4.0 ms traced",
        "  100.0% loop_fusion",
    ]
