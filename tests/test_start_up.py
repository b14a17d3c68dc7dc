"""The step is compiled while the first state is made: in time, and the right one."""

from __future__ import annotations

import threading

import jax
import jax.numpy as jnp
import pytest
from helpers import tiny_recipe

from nfnets.errors import UserError
from nfnets.training import checkpoint, compiled_steps, loop, session, workdir


@pytest.fixture
def compiled(monkeypatch):
    """The sizes of images whose step a run began to compile, in that order."""
    sizes, real = [], loop.compile_step

    def compile_step(stage, **run):
        sizes.append(stage.image_size)
        return real(stage, **run)

    monkeypatch.setattr(loop, "compile_step", compile_step)
    return sizes


@pytest.fixture(scope="module")
def recipe():
    """7 steps at 4 pixels and 8 at 8 pixels, saved after 4, 8, 12 and 15."""
    return tiny_recipe(
        batch_size=360,
        num_epochs=4.0,
        log_every_steps=1,
        checkpoint_every_steps=4,
        eval__every_epochs=4.0,
        progressive__stages=2,
        progressive__image_size=4,
    )


def train(recipe, directory, last_step=None):
    """Trains until the step ``last_step``, or to the end."""

    def stop_requested():
        rows = workdir.read_rows(directory)
        return bool(rows) and rows[-1]["step"] == last_step

    return loop.train_and_evaluate(
        recipe, directory, log=str, stop_requested=stop_requested
    )


def losses_of(directory):
    """Those of all rows, by step: as often as a step was done."""
    losses = {}
    for row in workdir.read_rows(directory):
        if "train/loss" in row:
            losses.setdefault(row["step"], []).append(row["train/loss"])
    return losses


def test_compiling_begins_before_the_initial_values(recipe, tmp_path, monkeypatch):
    """Here it goes on until they are there, and they wait until it goes on."""
    begun, made = threading.Event(), threading.Event()
    real_compile, real_draw = loop.compile_step, session.initial_variables

    def compile_step(stage, **run):
        begun.set()
        assert made.wait(60)
        return real_compile(stage, **run)

    def initial_variables(*args):
        assert begun.wait(60)
        variables = real_draw(*args)
        made.set()
        return variables

    monkeypatch.setattr(loop, "compile_step", compile_step)
    monkeypatch.setattr(session, "initial_variables", initial_variables)
    assert train(recipe, tmp_path, last_step=1).step == 1


def test_a_run_compiles_what_it_trains_next(recipe, tmp_path, compiled, monkeypatch):
    """Stopped in the second stage, gone back to the first, and complete."""
    assert train(recipe, tmp_path, last_step=8).step == 8
    assert compiled == [4, 8]
    compiled.clear()
    real = checkpoint._try_to_read

    def try_to_read(manager, step, target):
        return (None, "damaged") if step == 8 else real(manager, step, target)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_try_to_read", try_to_read)
        assert train(recipe, tmp_path).complete
    assert compiled == [8, 4]  # the damaged one's first
    losses = losses_of(tmp_path)
    assert sorted(losses) == list(range(1, 16))
    for step, done in losses.items():
        assert len(done) == (2 if 4 < step <= 8 else 1)
        assert len(set(done)) == 1
    compiled.clear()
    assert train(recipe, tmp_path).complete
    assert compiled == []


def test_an_error_at_the_start_does_not_wait_for_the_compiler(
    recipe, tmp_path, monkeypatch
):
    go_on = threading.Event()

    def compile_step(stage, **run):
        assert go_on.wait(60)
        raise RuntimeError("too late to matter")

    def restore_latest(*args):
        raise UserError("every checkpoint is damaged, say")

    monkeypatch.setattr(loop, "compile_step", compile_step)
    monkeypatch.setattr(checkpoint, "restore_latest", restore_latest)
    with pytest.raises(UserError, match="every checkpoint is damaged"):
        train(recipe, tmp_path)
    go_on.set()


def test_xla_knows_the_options_for_gpus_and_flags_win(monkeypatch):
    options = compiled_steps.COMPILER_OPTIONS["gpu"]
    monkeypatch.setenv("XLA_FLAGS", "")
    assert compiled_steps.compiler_options("gpu") == options
    assert compiled_steps.compiler_options("cpu") == {}
    double = jax.pmap(lambda x: 2 * x).lower(jnp.ones((jax.device_count(), 1)))
    double.compile(options)  # a name that XLA does not know raises
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    assert list(compiled_steps.compiler_options("gpu")) == [
        "xla_allow_excess_precision"
    ]
