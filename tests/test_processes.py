"""Several processes: the real program, two processes of two CPU devices each."""

import re
import signal
import socket
import time

import pytest
from real_program import (
    SMALL_FLAGS,
    assert_close_numbers,
    ends,
    program_in,
    rows_of,
    wait_until,
)

from nfnets.training import processes

STEPS = 29


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts a run of so many processes x devices; gives the processes."""
    program = program_in(tmp_path_factory.mktemp("home"))

    def start_processes(workdir, processes, devices, *flags, of_each=()):
        return program.start_several(
            processes,
            *SMALL_FLAGS,
            f"--workdir={workdir}",
            *flags,
            of_each=of_each,
            devices=devices,
        )

    return start_processes


def assert_same_training(left, right):
    assert_close_numbers(left, right)
    assert max(row["step"] for row in rows_of(left)) == STEPS


@pytest.fixture(scope="session")
def one_by_four(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one_by_four")
    ((status, _, err),) = ends(start(workdir, 1, 4))
    assert status == 0, err
    return workdir


@pytest.fixture(scope="session")
def two_by_two(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two_by_two")
    results = ends(start(workdir, 2, 2))
    assert [status for status, _, _ in results] == [0, 0], results
    return workdir, results


def test_two_by_two_trains_as_one_by_four(one_by_four, two_by_two):
    workdir, ((_, out, _), (_, other_out, _)) = two_by_two
    assert_same_training(workdir, one_by_four)
    assert "4 x cpu in 2 processes" in out
    assert "waiting up to" in other_out
    assert not re.search("model|step|eval|result|wrote", other_out)  # 0 alone speaks


def test_evaluation_counts_every_image_once_on_both_layouts(one_by_four, two_by_two):
    for workdir in (one_by_four, two_by_two[0]):
        evaluated = [row for row in rows_of(workdir) if "eval/examples" in row]
        assert len(evaluated) == 2
        assert {row["eval/examples"] for row in evaluated} == {360}


def run_until(started, workdir, count):
    """Waits until so many more rows are there."""
    wanted = len(rows_of(workdir)) + count
    wait_until(lambda: len(rows_of(workdir)) >= wanted, started)


def stopped_at(results):
    """The step that all processes of an interrupted run saved."""
    assert {status for status, _, _ in results} == {75}, results
    return int(re.search(r"saved at step (\d+)", results[0][1])[1])


def test_stopped_and_killed_on_changing_layouts(start, one_by_four, tmp_path):
    """2 x 2 (a signal to one), 1 x 4 (a signal), 2 x 2 (one is killed), 1 x 4."""
    started = start(tmp_path, 2, 2)
    run_until(started, tmp_path, 2)
    started[1].send_signal(signal.SIGTERM)
    first = stopped_at(ends(started))

    started = start(tmp_path, 1, 4)
    run_until(started, tmp_path, 3)
    started[0].send_signal(signal.SIGTERM)
    (second_run,) = ends(started)
    second = stopped_at([second_run])
    assert f"resume   from step {first}" in second_run[1]
    assert "saved on" not in second_run[1]  # four devices then and now

    started = start(tmp_path, 2, 2)
    run_until(started, tmp_path, 1)  # it says that it resumes, and compiles
    started[1].kill()
    before = time.monotonic()
    (status, out, _), _ = ends(started)
    print("process 0 ended after", time.monotonic() - before, "s")
    assert f"resume   from step {second}" in out
    assert status not in (0, 75)

    ((status, out, err),) = ends(start(tmp_path, 1, 4))
    assert status == 0, err
    assert_same_training(tmp_path, one_by_four)
    assert first < second < STEPS


def test_process_0_listens_at_the_address_given_only(start, tmp_path):
    """Not at another address of the machine, as on every interface it would."""
    waiting, other = start(tmp_path, 2, 2)
    other.kill()
    port = int(re.search(r":(\d+)$", waiting.args[-3])[1])
    try:
        wait_until(lambda: accepts("127.0.0.1", port), [waiting])
        assert not accepts("127.0.0.2", port)
    finally:
        waiting.kill()
        ends([waiting, other])


def accepts(host, port):
    """Whether someone listens there."""
    with socket.socket() as tried:
        return tried.connect_ex((host, port)) == 0


@pytest.mark.parametrize(
    ("address", "found", "expected"),
    [
        (None, "", None),
        ("10.0.0.7:99", "10.0.0.7", "10.0.0.7:99"),
        ("host0:99", "10.0.0.7", "host0:99"),
        ("host0:99", "127.0.1.1", None),
        ("localhost:99", "127.0.0.1", "localhost:99"),
        ("127.0.0.1:99", "127.0.0.1", "127.0.0.1:99"),
    ],
)
def test_where_process_0_listens(monkeypatch, address, found, expected):
    """A name that is 127.0.1.1 on its own machine is another address elsewhere."""
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port: answer)
    assert processes.bind_address(address) == expected
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "10.0.0.9:99")
    assert processes.bind_address(address) == "10.0.0.9:99"


def test_processes_with_different_settings_do_not_start(start, tmp_path):
    seeds = (["--config.seed=0"], ["--config.seed=1"])
    for status, _, err in ends(start(tmp_path / "run", 2, 2, of_each=seeds)):
        assert status == 2, err
        assert "the processes do not have the same config" in err
    assert not (tmp_path / "run").exists()


def test_processes_must_see_the_same_directory(start, tmp_path):
    own = ([f"--workdir={tmp_path / 'a'}"], [f"--workdir={tmp_path / 'b'}"])
    results = ends(start(tmp_path, 2, 2, of_each=own))
    assert results[1][0] == 2
    assert "storage that all hosts share" in results[1][2]
    assert results[0][0] != 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--num_processes=2",), "--coordinator, --process_id must be given too"),
        (
            ("--coordinator=here", "--num_processes=2", "--process_id=0"),
            "--coordinator=here: expected HOST:PORT",
        ),
        (
            ("--coordinator=h:1", "--num_processes=2", "--process_id=2"),
            "--process_id=2: expected 0 to 1",
        ),
    ],
)
def test_mistakes_are_one_line(start, tmp_path, flags, message):
    ((status, _, err),) = ends(start(tmp_path / "run", 1, 1, *flags))
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
