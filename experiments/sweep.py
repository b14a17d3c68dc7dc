"""Trains a grid: models x recipes x seeds x any field of a config; docs/sweep.md.

    python experiments/sweep.py --config=digits --sweepdir=DIR --grid=seed=0,1,2

Each --grid=FIELD=V1,V2,... is an axis; --grid=config=NAME1,NAME2 has recipes as one,
and --name=GRID is a study of a paper. Any field is set for all runs by
``--config.FIELD=VALUE``, as in run.py. The same command again goes on where the last
one stopped; --shard=i/n takes runs i, i + n, ... (i from 0), so that several machines
can share a grid.

Exit status: 0 this command's runs are finished, 2 a mistake in the command, data or
settings (one line says which), 75 interrupted and saved, 1 a run failed twice, or
anything else.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

try:
    from absl import flags

    from nfnets.command_line import (
        EXIT_INTERRUPTED,
        end_with_status,
        recipe_of_arguments,
        stop_on_signals,
    )
    from nfnets.errors import EXIT_COMPLETE, EXIT_OTHER, UserError
    from nfnets.sweep import directory as sweep_directory
    from nfnets.sweep.axes import Shard, parse_shard
    from nfnets.sweep.grids import GRIDS
    from nfnets.sweep.plan import (
        Plan,
        PlannedRun,
        contents_of,
        make_plan,
        plan_runs,
        split_arguments,
    )
    from nfnets.sweep.runs import failed_runs, train_in_process, train_runs
    from nfnets.training.storage import is_remote
except ImportError as missing:
    print(
        f'error: {missing}; training needs: pip install -e ".[train]"', file=sys.stderr
    )
    sys.exit(2)

HERE = Path(__file__).resolve().parent

FLAGS = flags.FLAGS
flags.DEFINE_string("sweepdir", None, "Directory of the sweep.")
flags.DEFINE_multi_string(
    "grid", [], "An axis, FIELD=V1,V2,... or FIELD,FIELD=(V1,V2),...; may be repeated."
)
flags.DEFINE_string("name", None, "A named grid (--list); --grid replaces its axes.")
flags.DEFINE_string("shard", "0/1", "i/n: train runs i, i + n, ... only; i from 0.")
flags.DEFINE_bool("list", False, "List the named grids, and exit.")
flags.DEFINE_bool("dry_run", False, "Print the runs and their steps, and exit.")
flags.DEFINE_bool("report_only", False, "Report what --sweepdir holds, and exit.")


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit status."""
    return end_with_status(run_command, argv)


def run_command(argv: list[str]) -> int:
    """Does what the arguments say and returns the exit status."""
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{__doc__}\n{FLAGS.module_help(sys.modules[__name__])}")
        return EXIT_COMPLETE
    arguments, config, fixed = split_arguments(argv)
    parse_program_flags(arguments)
    if FLAGS.list:
        return print_grids()
    if FLAGS.report_only:
        if FLAGS.name or FLAGS.grid or config or fixed:
            raise UserError("--report_only takes the grid that --sweepdir holds")
        return report(open_directory())
    shard = parse_shard(FLAGS.shard)
    plan = make_plan(FLAGS.name, config, fixed, FLAGS.grid)
    runs = plan_runs(plan, lambda given: recipe_of_arguments(given, HERE / "configs"))
    if FLAGS.dry_run:
        return print_runs(runs, shard)
    return sweep(plan, runs, shard, shlex.join(["python", *argv]))


def parse_program_flags(arguments: list[str]) -> None:
    """Parses what is not of the config; absl's errors become one line."""
    try:
        rest = FLAGS(arguments)
    except flags.Error as error:
        raise UserError(f"{error} (--help)") from error
    if len(rest) > 1:
        raise UserError(
            f"unexpected argument {rest[1]!r}; settings of all runs are "
            f"--config.FIELD=x, axes are --grid=FIELD=x,y"
        )


def open_directory() -> Path:
    """The directory of --sweepdir."""
    if FLAGS.sweepdir is None:
        raise UserError("give --sweepdir=DIR")
    if is_remote(FLAGS.sweepdir):
        raise UserError(
            f"--sweepdir={FLAGS.sweepdir}: expected a local directory, or one that all "
            f"machines mount"
        )
    return Path(FLAGS.sweepdir).expanduser()


def sweep(plan: Plan, runs: tuple[PlannedRun, ...], shard: Shard, command: str) -> int:
    """Trains this shard's runs, and reports on all there are."""
    directory = open_directory()
    sweep_directory.make(directory)
    sweep_directory.claim(directory, contents_of(plan, runs, command))
    stop_requested = stop_on_signals()
    mine = runs[shard.index :: shard.count]
    train = train_in_process(HERE / "run.py", stop_requested, say)
    if not train_runs(
        directory, mine, train=train, stop_requested=stop_requested, log=say
    ):
        say("interrupted and saved; the same command goes on, --report_only reports")
        return EXIT_INTERRUPTED
    report(directory)
    failed = failed_runs(directory, mine)
    for name in failed:
        print(f"failed: {name}; see its output.txt", file=sys.stderr)
    return EXIT_OTHER if failed else EXIT_COMPLETE


def report(directory: Path) -> int:
    """Writes the report and says where."""
    from nfnets.sweep.report import write_report

    say(f"wrote    {', '.join(map(str, write_report(directory)))}")
    return EXIT_COMPLETE


def print_runs(runs: tuple[PlannedRun, ...], shard: Shard) -> int:
    """Prints each run of the grid; those of other shards too."""
    for i, run in enumerate(runs):
        recipe = run.recipe
        print(
            f"{i} (shard {i % shard.count}): {run.name}: {recipe.total_steps} steps of "
            f"{recipe.batch_size}"
        )
    total = sum(run.recipe.total_steps for run in runs[shard.index :: shard.count])
    print(f"{len(runs)} runs; shard {shard.index} of {shard.count}: {total} steps")
    return EXIT_COMPLETE


def print_grids() -> int:
    """Prints the named grids and where they are from."""
    for name, grid in GRIDS.items():
        print(f"{name}: {grid.source}")
        for axis in grid.axes:
            values = [v[0] if len(v) == 1 else f"({', '.join(v)})" for v in axis.values]
            shown = values if len(values) < 12 else [*values[:3], "...", values[-1]]
            print(f"  {', '.join(axis.fields)}: {', '.join(shown)}")
    return EXIT_COMPLETE


def say(message: str) -> None:
    """Prints a line at once.

    Not that of ``command_line``, which asks JAX for the process and thereby takes the
    devices, which are the runs'.
    """
    print(message, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
