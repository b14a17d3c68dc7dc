"""Does to the real program what machines and people do to it, and counts what is lost.

    python tests/faults.py [--trials=50] [--only=R1,R8] [--seed=0] [--report=FILE]

Runs rows R1 to R20 of the matrix in docs/reliability.md and prints it as a table: what
was done, how often, how often nothing was lost. ``--trials`` is the number of kills of
R1, and scales the other random ones. A lost trial is said at once with what was lost,
its directory is kept, and the exit status is 1. A short form is part of the test suite
(tests/test_faults.py).
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Read when jax is imported; the programs that are started have flags of their own.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

from fault_rows import ROWS
from fault_trials import Lab, Outcome, Row, run_row
from real_program import program_in

from nfnets.command_line import quiet_checkpoint_library

FULL = 50  # the --trials for which Row.full is the number of faults


def main() -> int:
    """Runs the rows that were asked for; gives the exit status."""
    arguments = parse_arguments()
    quiet_checkpoint_library()
    if arguments.list:
        print("\n".join(f"{row.id:4} {row.what}" for row in ROWS))
        return 0
    home = Path(tempfile.mkdtemp(prefix="faults-", dir=arguments.directory))
    print(f"in {home}, seed {arguments.seed}", flush=True)
    lab = Lab(home, program_in(home), random.Random(arguments.seed))
    outcomes = []
    for row in chosen_rows(arguments.only):
        outcome = run_row(lab, row, scaled(row.full, arguments.trials))
        outcomes.append(outcome)
        print(
            f"{row.id:4} {outcome.trials} trials, {len(outcome.lost)} lost, "
            f"{outcome.seconds:.0f} s",
            flush=True,
        )
    table = markdown(outcomes)
    print(table)
    if arguments.report is not None:
        arguments.report.write_text(table, encoding="utf-8")
    return int(any(outcome.lost for outcome in outcomes))


def parse_arguments() -> argparse.Namespace:
    """The command line; unknown rows end the program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=FULL, help="kills of R1")
    parser.add_argument("--only", default="", help="rows, as in R1,R8; all by default")
    parser.add_argument("--list", action="store_true", help="list the rows and end")
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims")
    parser.add_argument("--report", type=Path, help="where to write the table")
    parser.add_argument("--directory", type=Path, help="on which disk to work")
    arguments = parser.parse_args()
    if arguments.trials < 1:
        parser.error(f"--trials={arguments.trials}: expected at least 1")
    unknown = set(filter(None, arguments.only.split(","))) - {row.id for row in ROWS}
    if unknown:
        parser.error(f"--only: no row {', '.join(sorted(unknown))}; see --list")
    return arguments


def chosen_rows(only: str) -> Sequence[Row]:
    """All rows, or those named."""
    return [row for row in ROWS if not only or row.id in only.split(",")]


def scaled(full: int, trials: int) -> int:
    """A row's number of random faults for ``trials`` of R1."""
    return max(1, round(full * trials / FULL))


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table, as docs/reliability.md shows it."""
    lines = ["| id | what | trials | survived | lost |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        numbers = f"{outcome.trials} | {outcome.survived} | {len(outcome.lost)}"
        lines.append(f"| {outcome.row.id} | {outcome.row.what} | {numbers} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
