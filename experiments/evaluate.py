"""Evaluates a run, or a file of weights, on several sets; docs/evaluation.md.

    python experiments/evaluate.py --workdir=RUN
    python experiments/evaluate.py --workdir=RUN --sets=val,real,v2 --real=FILE --v2=DIR
    python experiments/evaluate.py --workdir=RUN --sizes=160,224,288 --crops=0.875,1.0
    python experiments/evaluate.py --workdir=RUN --per_class
    python experiments/evaluate.py --config=NAME --config.init_from=FILE --out=DIR

Of a run the last checkpoint is taken, weights and moving average; --checkpoint names
another. The results go to evaluations.json; with --sizes or --crops instead to
resolution_sweep.csv and resolution_sweep.png. --per_class also writes accuracies class
by class (per_class_SET.csv) and, of few classes, confusion_SET.png.

Exit status: 0 complete, 2 a mistake in the command, data or settings (one line says
which), 75 interrupted (what was finished is written), 1 anything else.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

try:
    from absl import flags
    from ml_collections import config_flags

    from nfnets.command_line import (
        EXIT_INTERRUPTED,
        end_with_status,
        quiet_checkpoint_library,
        say,
        stop_on_signals,
        use_compilation_cache,
    )
    from nfnets.errors import EXIT_COMPLETE, UserError
    from nfnets.training import processes
    from nfnets.training.storage import as_path
    from nfnets.weights_flags import WeightsChoice, choose_weights
except ImportError as missing:
    print(
        f'error: {missing}; training needs: pip install -e ".[train]"', file=sys.stderr
    )
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
flags.DEFINE_bool("per_class", False, "Also accuracies and confusions by class.")
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
    choice, _ = choose_weights(argv, FLAGS, CONFIG_DIR)
    if choice.run is None and FLAGS.out is None:
        raise UserError("a file of weights needs --out=DIR, where the results go")
    if not FLAGS.sets:
        raise UserError("--sets names none; expected some of val, real and v2")
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
    return evaluate(choice, sizes, crops, stop_on_signals())


def number(text: str, kind: Any, flag: str) -> Any:
    """The number in a list of a flag."""
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(f"{flag} has {text!r}, which is no number") from error


def evaluate(
    choice: WeightsChoice, sizes: list[int], crops: list[float], stop_requested: Any
) -> int:
    """Evaluates, and writes each result as soon as it is there."""
    from nfnets.training import evaluate_sets
    from nfnets.training.evaluation_sets import Places

    complete = evaluate_sets.evaluate_and_write(
        choice.read(say),
        FLAGS.sets,
        Places(FLAGS.val, FLAGS.real, FLAGS.v2, FLAGS.data_dir),
        as_path(FLAGS.out or FLAGS.workdir),
        sizes=sizes,
        crops=crops,
        by_class=FLAGS.per_class,
        log=say,
        stop_requested=stop_requested,
    )
    if not complete:
        say("interrupted: the rest was not evaluated")
    return EXIT_COMPLETE if complete else EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
