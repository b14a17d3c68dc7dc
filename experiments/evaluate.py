"""Evaluates a run, or a file of weights, on several sets; docs/evaluation.md.

    python experiments/evaluate.py --workdir=RUN
    python experiments/evaluate.py --workdir=RUN --sets=val,real,v2 --real=FILE --v2=DIR
    python experiments/evaluate.py --workdir=RUN --sizes=160,224,288 --crops=0.875,1.0
    python experiments/evaluate.py --config=NAME --config.init_from=FILE --out=DIR

Of a run the last checkpoint is taken, weights and moving average; --checkpoint names
another. The results go to evaluations.json; with --sizes or --crops instead to
resolution_sweep.csv and resolution_sweep.png.

Exit status: 0 complete, 2 a mistake in the command, data or settings (one line says
which), 75 interrupted (what was finished is written), 1 anything else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

try:
    from absl import flags
    from ml_collections import config_flags

    from nfnets.command_line import (
        EXIT_INTERRUPTED,
        end_with_status,
        parse_flags,
        quiet_checkpoint_library,
        say,
        stop_on_signals,
        use_compilation_cache,
    )
    from nfnets.errors import EXIT_COMPLETE, UserError
    from nfnets.training import processes
    from nfnets.training.config_files import rewrite_argv
    from nfnets.training.recipe import Recipe
    from nfnets.training.storage import as_path
except ImportError as missing:
    print(f'error: {missing}; training needs: pip install ".[train]"', file=sys.stderr)
    sys.exit(2)

CONFIG_DIR = Path(__file__).resolve().parent / "configs"

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config", None, "NAME (run.py --list) or path/file.py:variant; default the run's."
)
flags.DEFINE_string("workdir", None, "Work directory of the run.")
flags.DEFINE_string("out", None, "Where the results go; default the work directory.")
flags.DEFINE_list("sets", ["val"], "Of val, real and v2.")
flags.DEFINE_string("val", None, "Images of val and real; default the config's test.")
flags.DEFINE_string("real", None, "real.json, ReaL's labels; or --val has them.")
flags.DEFINE_string("v2", None, "ImageNet-V2: a folder, or a data source.")
flags.DEFINE_string("data_dir", None, "Of tfds: sets; default the config's.")
flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
flags.DEFINE_list("sizes", [], "A sweep: image sizes in pixels.")
flags.DEFINE_list("crops", [], "A sweep: crop ratios, above 0, at most 1.")
flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; found by itself on a cluster."
)
flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes.")
flags.DEFINE_integer("process_id", None, "With --coordinator: 0, 1, ...")


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit status, or ends the process with it."""
    return end_with_status(run_command, argv)


def run_command(argv: list[str]) -> int:
    """Does what the arguments say and returns the exit status."""
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{__doc__}\n{FLAGS.module_help(sys.modules[__name__])}")
        return EXIT_COMPLETE
    arguments, name = rewrite_argv(argv, CONFIG_DIR)
    fields = [argument for argument in arguments if argument.startswith("--config.")]
    if name is None and fields:
        raise UserError(f"{fields[0]} needs --config=NAME; without it the run's counts")
    parse_flags(arguments, FLAGS)
    recipe = None if name is None else Recipe.from_config(FLAGS.config)
    initial = any(field.startswith("--config.init_from") for field in fields)
    check_what(recipe, initial)
    if not FLAGS.sets:
        raise UserError("--sets names none; expected some of val, real and v2")
    which = chosen_checkpoint(FLAGS.checkpoint)
    sizes = [number(text, int, "--sizes") for text in FLAGS.sizes]
    crops = [number(text, float, "--crops") for text in FLAGS.crops]
    use_compilation_cache()
    processes.initialize(
        coordinator=FLAGS.coordinator,
        num_processes=FLAGS.num_processes,
        process_id=FLAGS.process_id,
        log=lambda message: print(message, flush=True),
    )
    quiet_checkpoint_library()
    return evaluate(recipe, which, sizes, crops, stop_on_signals())


def check_what(recipe: Recipe | None, initial: bool) -> None:
    """Refuses flags that do not say which weights, or say it twice.

    Args:
      recipe: of --config; None without.
      initial: whether --config.init_from is among the arguments.
    """
    if FLAGS.workdir is not None and initial:
        raise UserError(
            "--workdir and --config.init_from both name weights; give one of them "
            "(with a file: --out=DIR for the results)"
        )
    if FLAGS.workdir is not None:
        return
    if recipe is None or recipe.init_from is None or FLAGS.out is None:
        raise UserError(
            "give --workdir=RUN, or --config=NAME --config.init_from=FILE --out=DIR"
        )
    if FLAGS.checkpoint != "last":
        raise UserError(
            f"--checkpoint={FLAGS.checkpoint} is of a run, which --workdir names"
        )


def chosen_checkpoint(text: str) -> int | Literal["best"] | None:
    """A step, "best", or None for the last."""
    if text == "best":
        return "best"
    if text != "last" and not text.isdecimal():
        raise UserError(f"--checkpoint is {text!r}; expected last, best or a step")
    return None if text == "last" else int(text)


def number(text: str, kind: Any, flag: str) -> Any:
    """The number in a list of a flag."""
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(f"{flag} has {text!r}, which is no number") from error


def evaluate(
    recipe: Recipe | None,
    which: int | Literal["best"] | None,
    sizes: list[int],
    crops: list[float],
    stop_requested: Any,
) -> int:
    """Evaluates, and writes each result as soon as it is there."""
    from nfnets.training import evaluate_sets
    from nfnets.training.evaluation_sets import Places

    if FLAGS.workdir is not None:
        run = as_path(FLAGS.workdir)
        tested = evaluate_sets.read_run_weights(run, recipe, which, say)
    else:
        assert recipe is not None  # check_what
        tested = evaluate_sets.read_file_weights(recipe, say)
    complete = evaluate_sets.evaluate_and_write(
        tested,
        FLAGS.sets,
        Places(FLAGS.val, FLAGS.real, FLAGS.v2, FLAGS.data_dir),
        as_path(FLAGS.out or FLAGS.workdir),
        sizes=sizes,
        crops=crops,
        log=say,
        stop_requested=stop_requested,
    )
    if not complete:
        say("interrupted: the rest was not evaluated")
    return EXIT_COMPLETE if complete else EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
