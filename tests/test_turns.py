"""Benchmarks take turns on a machine."""

from __future__ import annotations

import tempfile
import threading

import pytest

from nfnets.step_benchmark import turns


@pytest.fixture(autouse=True)
def own_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def start(turn):
    """Waits in a thread for a turn; gives the event that it has come."""
    came = threading.Event()

    def wait():
        with turn():
            came.set()

    threading.Thread(target=wait).start()
    return came


@pytest.mark.parametrize("other", [turns.compiling, turns.timing])
def test_who_is_timed_is_alone(other):
    with turns.timing():
        came = start(other)
        assert not came.wait(0.2)
    assert came.wait(10)


def test_many_compile_at_once_and_none_is_timed_then():
    with turns.compiling():
        assert start(turns.compiling).wait(10)
        timed = start(turns.timing)
        assert not timed.wait(0.2)
    assert timed.wait(10)
