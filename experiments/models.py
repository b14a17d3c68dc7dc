"""Lists the networks with parameters, multiply-adds, activations, sizes and accuracy.

Usage: python experiments/models.py ['effnetv2_*' ...] [--format=csv] [--compare]

Counts are those of `nfnets.flops`, for one image of the test size and 1000 classes;
"activations" are the numbers that all convolutions and matrix products give (times 4
they are bytes in float32). Accuracies are published ones, with their source
(`nfnets.published`). A network takes about a second, all of them a minute and a half;
``python experiments/run.py --list`` only names them. The README's table is the output
of ``--format=markdown``.

Exit status: 0 listed; 2 a mistake, which one line explains.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections import Counter
from collections.abc import Iterator

from nfnets.count_comparison import compare_models
from nfnets.errors import UserError, did_you_mean, in_one_line
from nfnets.model_table import (
    COMPARISON_COLUMNS,
    FORMATS,
    NETWORK_COLUMNS,
    Record,
    comparison_record,
    lines,
    network_record,
)
from nfnets.published import published
from nfnets.registry import FAMILIES, list_models, models_of


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", help="names, as 'nfnet_*'; default: all")
    parser.add_argument("--format", choices=FORMATS, default="table")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="every published count beside ours, and why it differs",
    )
    args = parser.parse_args(arguments)
    try:
        names = select(args.patterns)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.compare:
        compare(names, args.format)
        return 0
    for line in lines(map(network_record, names), NETWORK_COLUMNS, args.format):
        print(line, flush=True)
    return 0


def select(patterns: list[str]) -> list[str]:
    """Models that match any pattern, family by family; without patterns all."""
    for pattern in patterns:
        if not list_models(pattern):
            hint = did_you_mean(pattern, list_models())
            raise UserError(f"no model matches {pattern!r}; {hint}")
    names = [name for family in FAMILIES for name in models_of(family)]
    matches = [fnmatch.filter(names, pattern) for pattern in patterns or ["*"]]
    return [name for name in names if any(name in found for found in matches)]


def compare(names: list[str], form: str) -> None:
    """Prints the comparison, and below a table how many numbers agree."""
    verdicts: Counter[str] = Counter()

    def records() -> Iterator[Record]:
        for comparison in compare_models(names):
            verdicts["compared"] += 1
            verdicts["within rounding"] += comparison.within_rounding
            verdicts["different"] += not comparison.within_rounding
            verdicts["from memory"] += comparison.kind == "memory"
            yield comparison_record(comparison)

    for line in lines(records(), COMPARISON_COLUMNS, form):
        print(line, flush=True)
    if form == "table":
        print(", ".join(f"{number} {verdict}" for verdict, number in verdicts.items()))
        silent = [name for name in names if not published(name)]
        print(f"no source has counts of: {', '.join(silent) or 'none'}")


if __name__ == "__main__":
    sys.exit(in_one_line(main))
