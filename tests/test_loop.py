"""The loop's corners that no process from outside can hit reliably."""

import subprocess
import sys
import time

import pytest
from etils import epath
from helpers import tiny_recipe, with_changes

from nfnets.errors import UserError
from nfnets.training import between_steps, session, workdir
from nfnets.training.checkpoint_scores import NOT_EVALUATED, read_score
from nfnets.training.loop import train_and_evaluate


@pytest.fixture(scope="module")
def recipe():
    return tiny_recipe(
        batch_size=360,
        num_epochs=2.0,
        log_every_steps=1,
        eval__every_epochs=1.0,
        checkpoint_every_steps=100,
    )


def evaluated_steps(directory):
    rows = workdir.read_rows(directory)
    return [row["step"] for row in rows if "eval/top1" in row]


def test_a_run_stopped_while_evaluating_evaluates_when_resumed(
    recipe, tmp_path, monkeypatch
):
    """Seven steps; the first evaluation is due after the fourth."""
    stopping = []
    real = between_steps.evaluate

    def interrupted(step, variables, source, recipe, stop_requested):
        stopping.append(True)
        return real(step, variables, source, recipe, stop_requested)

    with monkeypatch.context() as patch:
        patch.setattr(between_steps, "evaluate", interrupted)
        result = train_and_evaluate(
            recipe, tmp_path, log=str, stop_requested=lambda: bool(stopping)
        )
    assert (result.complete, result.step) == (False, 4)
    assert evaluated_steps(tmp_path) == []
    assert (tmp_path / "samples.png").exists()
    folder = epath.Path(tmp_path) / workdir.CHECKPOINTS
    assert read_score(folder / "4") == NOT_EVALUATED
    result = train_and_evaluate(recipe, tmp_path, log=str)
    assert (result.complete, result.step) == (True, 7)
    assert evaluated_steps(tmp_path) == [4, 7]
    rows = workdir.read_rows(tmp_path)
    assert [r["step"] for r in rows if "train/loss" in r] == [1, 2, 3, 4, 5, 6, 7]
    scores = {r["step"]: r["eval_ema/top1"] for r in rows if "eval/top1" in r}
    assert {step: read_score(folder / str(step)) for step in scores} == scores


def test_a_run_without_a_row_is_resumed_and_is_no_other_recipes(
    recipe, tmp_path, monkeypatch
):
    stopping = iter([False] * 3 + [True] * 9)
    quiet = with_changes(recipe, log_every_steps=100, data__backend="python")
    result = train_and_evaluate(
        quiet, tmp_path, log=str, stop_requested=lambda: next(stopping)
    )
    assert not result.complete
    assert workdir.read_rows(tmp_path) == []
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        train_and_evaluate(with_changes(quiet, seed=1), tmp_path, log=str)
    said = []
    monkeypatch.setattr(session, "choose_backend", lambda name: "native")
    train_and_evaluate(quiet, tmp_path, log=said.append)
    assert f"resume   from step {result.step}" in said
    assert any("trained with the python input backend" in line for line in said)


def test_min_steps_go_on_over_the_epochs(recipe, tmp_path):
    """Half an epoch would be one step; 1437 images make 3.99 steps of 360 an epoch."""
    longer = with_changes(recipe, num_epochs=0.5, min_steps=9)
    result = train_and_evaluate(longer, tmp_path, log=str)
    assert (result.complete, result.step) == (True, 9)
    rows = [row for row in workdir.read_rows(tmp_path) if "train/loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert rows[-1]["epoch"] == pytest.approx(9 * 360 / 1437)
    assert evaluated_steps(tmp_path) == [4, 8, 9]


def test_an_evaluation_that_fails_keeps_what_was_trained(recipe, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("a damaged test image, say")

    monkeypatch.setattr(between_steps, "evaluate", fail)
    with pytest.raises(RuntimeError, match="a damaged test image"):
        train_and_evaluate(recipe, tmp_path, log=str)
    assert (tmp_path / "checkpoints" / "4").is_dir()


def test_the_watchdog_ends_a_program_that_hangs():
    code = (
        "import time\n"
        "from nfnets.training.watchdog import Watchdog\n"
        "with Watchdog(0.3 / 60) as dog:\n"
        "    for _ in range(4): time.sleep(0.15); dog.touch()\n"
        "    print('alive', flush=True)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 76
    assert done.stdout == "alive\n"
    assert "nothing was finished for" in done.stderr
    assert "Thread" in done.stderr


def test_the_watchdog_ends_compiled_code_that_holds_the_interpreter():
    code = (
        "import ctypes, time\n"
        "from nfnets.training import watchdog\n"
        "watchdog.GRACE_S = 0.5\n"
        "with watchdog.Watchdog(1 / 60):\n"
        "    time.sleep(0.5)\n"
        "    ctypes.PyDLL(None).sleep(60)\n"  # unlike CDLL, it keeps the lock
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert time.monotonic() - started < 50
    assert "Timeout" in done.stderr
    assert 'File "<string>", line 6' in done.stderr
