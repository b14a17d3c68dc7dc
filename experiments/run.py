"""Trains any model under any recipe: ``python experiments/run.py --config=nfnet_f1``.

The same command again goes on where the last one stopped. Any field of a config can be
set by ``--config.FIELD=VALUE`` (``None`` where the field may be absent); --print_config
shows them all, --list the names of configs and models; experiments/models.py has the
parameters, multiply-adds and published accuracies of the latter.

Exit status: 0 the run is complete, 2 a mistake in the command, data or settings (one
line says which), 3 the numbers went non-finite, 75 interrupted and saved, 76 stopped by
the watchdog, 1 anything else.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

try:
    from absl import flags
    from etils import epath
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
    from nfnets.errors import EXIT_COMPLETE, EXIT_NON_FINITE, UserError
    from nfnets.training import processes
    from nfnets.training.config_files import load_config, rewrite_argv
    from nfnets.training.recipe import Recipe
    from nfnets.training.storage import as_path
    from nfnets.training.typed_config import differences
except ImportError as missing:
    print(
        f'error: {missing}; training needs: pip install -e ".[train]"', file=sys.stderr
    )
    sys.exit(2)

CONFIG_DIR = Path(__file__).resolve().parent / "configs"

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config", None, "NAME (see --list) or path/file.py:variant."
)
flags.DEFINE_string("workdir", None, "Work directory; default runs/NAME.")
flags.DEFINE_bool(
    "list", False, "List configs and models, and exit; models.py says more of models."
)
flags.DEFINE_bool("print_config", False, "Print the resolved recipe as JSON, and exit.")
flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval"],
    "eval: no training, the weights of --config.init_from or of the work directory.",
)
flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; found by itself on a cluster."
)
flags.DEFINE_integer("num_processes", None, "With --coordinator: how many processes.")
flags.DEFINE_integer("process_id", None, "With --coordinator: 0, 1, ...")
flags.DEFINE_integer(
    "join_timeout_s",
    processes.JOIN_TIMEOUT_S,
    "Seconds to wait for the other processes at the start.",
)
flags.DEFINE_integer(
    "heartbeat_s",
    processes.HEARTBEAT_S,
    "Seconds without a sign of life after which a process counts as lost.",
)
flags.DEFINE_string(
    "wandb_project",
    None,
    "Send the rows to this project of Weights & Biases too; without a key, or with "
    "WANDB_MODE=offline, they are kept in the work directory.",
)
flags.DEFINE_bool("dry_run", False, "Parameters, MACs, memory, one synthetic step.")


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit status, or ends the process with it."""
    return end_with_status(run_command, argv)


def run_command(argv: list[str]) -> int:
    """Does what the arguments say and returns the exit status."""
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{__doc__}\n{FLAGS.module_help(sys.modules[__name__])}")
        return EXIT_COMPLETE
    arguments, name = rewrite_argv(argv, CONFIG_DIR)
    parse_flags(arguments, FLAGS)
    if FLAGS.list:
        return print_names()
    if name is None:
        raise UserError("give --config=NAME; --config=digits runs anywhere (--list)")
    return run_config(name, shlex.join(["python", *argv]))


def run_config(name: str, command: str) -> int:
    """Trains, dry-runs or prints the config that the flags hold."""
    recipe = Recipe.from_config(FLAGS.config)
    named = Recipe.from_config(load_config(name, CONFIG_DIR))
    changes = differences(named.to_dict(), recipe.to_dict())
    if FLAGS.print_config:
        print(json.dumps(describe(recipe) | {"changes": changes}, indent=2))
        return EXIT_COMPLETE
    use_compilation_cache()
    if FLAGS.dry_run:
        from nfnets.training.dry_run import dry_run

        dry_run(recipe)
        return EXIT_COMPLETE
    directory = as_path(FLAGS.workdir or f"runs/{recipe.name}")
    processes.initialize(
        coordinator=FLAGS.coordinator,
        num_processes=FLAGS.num_processes,
        process_id=FLAGS.process_id,
        log=lambda message: print(message, flush=True),
        join_timeout_s=FLAGS.join_timeout_s,
        heartbeat_s=FLAGS.heartbeat_s,
    )
    stop_requested = stop_on_signals()
    quiet_checkpoint_library()
    if FLAGS.mode == "eval":
        return evaluate(recipe, directory, stop_requested)
    return train(recipe, directory, stop_requested, command, changes)


def train(
    recipe: Recipe,
    directory: epath.Path,
    stop_requested: Callable[[], bool],
    command: str,
    changes: dict[str, str],
) -> int:
    """Trains to the end, or until a signal; prints what was written."""
    from nfnets.training.between_steps import NonFiniteError
    from nfnets.training.loop import train_and_evaluate

    try:
        result = train_and_evaluate(
            recipe,
            directory,
            log=say,
            stop_requested=stop_requested,
            command=command,
            changes=changes,
            wandb_project=FLAGS.wandb_project,
        )
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_NON_FINITE
    if not result.complete:
        say(f"interrupted and saved at step {result.step}; the same command goes on")
        return EXIT_INTERRUPTED
    say_result(recipe, result.row)
    written = [*result.files, directory / "metrics.jsonl", directory / "checkpoints"]
    say(f"wrote    {', '.join(str(path) for path in written)}")
    return EXIT_COMPLETE


def evaluate(
    recipe: Recipe, directory: epath.Path, stop_requested: Callable[[], bool]
) -> int:
    """Evaluates the weights that the config or the work directory names."""
    from nfnets.training.evaluate_only import RESULT, evaluate_only

    row = evaluate_only(recipe, directory, log=say, stop_requested=stop_requested)
    if row is None:
        say("interrupted: nothing was written")
        return EXIT_INTERRUPTED
    say_result(recipe, row)
    say(f"wrote    {directory / RESULT}")
    return EXIT_COMPLETE


def say_result(recipe: Recipe, row: Mapping[str, Any] | None) -> None:
    """Prints the accuracies of an evaluation."""
    for prefix, weights in (("eval", "weights"), ("eval_ema", "moving average")):
        if row and f"{prefix}/top1" in row:
            top1, top5 = (row[f"{prefix}/{k}"] for k in ("top1", "top5"))
            broken = "" if row[f"{prefix}/loss"] is not None else "; loss not finite"
            images = f"{row[f'{prefix}/examples']} {recipe.eval.split} images"
            say(
                f"result   {top1:.2%} top-1, {top5:.2%} top-5 on {images} "
                f"({weights}{broken})"
            )


def describe(recipe: Recipe) -> dict[str, Any]:
    """The recipe's facts, and what follows from them."""
    return {
        "recipe": recipe.to_dict(),
        "derived": {
            "peak_lr": recipe.peak_lr,
            "steps_per_epoch": recipe.steps_per_epoch,
            "total_steps": recipe.total_steps,
            "warmup_steps": recipe.warmup_steps,
            "eval_every_steps": recipe.eval_every_steps,
            "eval_image_size": recipe.eval_image_size,
            "stages": [
                vars(stage) | {"augment": vars(stage.augment)}
                for stage in recipe.stages
            ],
        },
    }


def print_names() -> int:
    """Prints all config and model names."""
    from nfnets.registry import list_models
    from nfnets.training.config_files import list_configs

    for title, names in (
        ("configs", list_configs(CONFIG_DIR)),
        ("models", list_models()),
    ):
        print(f"{title}:")
        for listed in names:
            print(f"  {listed}")
    return EXIT_COMPLETE


if __name__ == "__main__":
    sys.exit(main(sys.argv))
