"""Training-aware NAS (EfficientNetV2, Sec. 3.2) under any recipe; docs/search.md.

    python experiments/search.py --config=NAME --searchdir=DIR --steps=300

The same command again goes on where the last one stopped; more candidates make it
longer. Any field of the config can be set by ``--config.FIELD=VALUE``, as in run.py.
--mode=retrain trains the best and the median candidate again, --mode=scale prints
larger networks from the best; both need only --searchdir.

Exit status: 0 the search is complete, 2 a mistake in the command, data or settings (one
line says which), 75 interrupted and saved, 1 anything else.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

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
    print(
        f'error: {missing}; training needs: pip install -e ".[train]"', file=sys.stderr
    )
    sys.exit(2)

CONFIG_DIR = Path(__file__).resolve().parent / "configs"

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config", None, "NAME (run.py --list) or path/file.py:variant; the recipe."
)
flags.DEFINE_string("searchdir", None, "Directory of the search.")
flags.DEFINE_enum(
    "mode",
    "search",
    ["search", "retrain", "scale"],
    "retrain: best and median again; scale: the best as S, and its M and L.",
)
flags.DEFINE_string(
    "backbone", "effnet_b4", "An EfficientNet's name, narrow (for 32 px), or FILE.json."
)
flags.DEFINE_integer("candidates", 1000, "Networks to try, the backbone included.")
flags.DEFINE_integer("steps", None, "Train steps of each; default the config's length.")
flags.DEFINE_enum(
    "algorithm", "evolution", ["random", "evolution"], "What proposes networks."
)
flags.DEFINE_integer("population", 20, "evolution: networks alive.")
flags.DEFINE_integer("tournament", 5, "evolution: of which the parent is the best.")
flags.DEFINE_integer(
    "seed", None, "Of the proposals, default 0; retrain: of training, default another."
)
flags.DEFINE_integer("top", 1, "retrain: how many of the best, beside the median.")
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
    parse_flags(arguments, FLAGS)
    if FLAGS.searchdir is None:
        raise UserError("give --searchdir=DIR")
    if FLAGS.mode == "search" and name is None:
        raise UserError("give --config=NAME (run.py --list); the recipe of candidates")
    if FLAGS.mode != "search" and name is not None:
        raise UserError(f"--mode={FLAGS.mode} takes the config that --searchdir holds")
    use_compilation_cache()
    processes.initialize(
        coordinator=FLAGS.coordinator,
        num_processes=FLAGS.num_processes,
        process_id=FLAGS.process_id,
        log=lambda message: print(message, flush=True),
    )
    stop_requested = stop_on_signals()
    quiet_checkpoint_library()
    command = shlex.join(["python", *argv])
    if FLAGS.mode == "scale":
        return scale()
    if FLAGS.mode == "retrain":
        return retrain(stop_requested, command)
    return search(stop_requested, command)


def search(stop_requested: Any, command: str) -> int:
    """Searches to the end, or until a signal."""
    from effnetv2.backbones import load_backbone
    from effnetv2.search import open_search, run_search
    from effnetv2.search_algorithms import Algorithm
    from effnetv2.search_directory import Settings, device_name

    settings = Settings(
        recipe=Recipe.from_config(FLAGS.config),
        steps=FLAGS.steps,
        backbone=load_backbone(FLAGS.backbone),
        algorithm=Algorithm(
            name=FLAGS.algorithm,
            population=FLAGS.population,
            tournament=FLAGS.tournament,
            seed=FLAGS.seed or 0,
        ),
        device=device_name(),
    )
    directory = as_path(FLAGS.searchdir)
    opened = open_search(
        settings, directory, log=say, stop_requested=stop_requested, command=command
    )
    if not run_search(opened, FLAGS.candidates):
        return interrupted()
    written = [directory / name for name in ("report.md", "best.py")]
    say(f"wrote    {', '.join(str(path) for path in written if path.exists())}")
    return EXIT_COMPLETE


def retrain(stop_requested: Any, command: str) -> int:
    """Trains the best and the median again, and prints their rewards."""
    from effnetv2.search import open_search
    from effnetv2.search_directory import RETRAINED, read_settings
    from effnetv2.search_retrain import retrain

    directory = as_path(FLAGS.searchdir)
    settings = read_settings(directory)
    opened = open_search(
        settings, directory, log=say, stop_requested=stop_requested, command=command
    )
    seed = settings.recipe.seed + 1 if FLAGS.seed is None else FLAGS.seed
    if retrain(opened, top=FLAGS.top, seed=seed) is None:
        return interrupted()
    say(f"wrote    {directory / RETRAINED}, {directory / 'report.md'}")
    return EXIT_COMPLETE


def scale() -> int:
    """Prints the larger networks that follow from the best."""
    from effnetv2.search_directory import read_rows
    from effnetv2.search_report import larger_networks

    rows = [r for r in read_rows(as_path(FLAGS.searchdir)) if r["status"] == "ok"]
    if not rows:
        raise UserError(
            f"{FLAGS.searchdir} has no candidate with a reward yet; search first"
        )
    best = max(rows, key=lambda row: row["reward"])
    say(json.dumps(larger_networks(best["stages"]), indent=2))
    return EXIT_COMPLETE


def interrupted() -> int:
    """Says how to go on."""
    say("interrupted and saved; the same command goes on")
    return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
