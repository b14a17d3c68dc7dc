"""What a sweep leaves for its reader: tables, CSV and pictures, made from its runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from nfnets.sweep.directory import Contents, alone, read_contents
from nfnets.sweep.grid_pictures import draw_heat_map, draw_lines
from nfnets.sweep.grids import GRIDS
from nfnets.sweep.pictures import draw_histogram, draw_spread, draw_val_against_v2
from nfnets.sweep.results import (
    STATUSES,
    RunResult,
    Summary,
    accuracies,
    by_setting,
    numeric_axes,
    read_results,
    summarise,
    table_rows,
)
from nfnets.training.report import write_csv
from nfnets.training.storage import write_atomically
from nfnets.versions import versions

RESULTS, REPORT = "results.csv", "report.md"
# Whose accuracy the pictures show that show one; the tables have the averages too.
_MAIN = "eval/top1"
_CAPTIONS = {
    "lines.png": "top-1 along a numeric axis",
    "heatmap.png": "top-1 over two numeric axes",
    "histogram.png": "top-1 over the seeds",
    "spread_over_epochs.png": "top-1 over the epochs",
    "val_against_v2.png": "V2 against validation",
}
_TITLES = {
    "eval/top1": "Top-1 of the last weights",
    "eval_ema/top1": "Top-1 of the moving average",
    **{
        f"{name}{average}/top1": f"Top-1 of the {whose} on {where}, by evaluate.py"
        for name, where in (("val", "val"), ("real", "ReaL"), ("v2", "V2"))
        for average, whose in (("", "last weights"), ("_ema", "moving average"))
    },
}


def write_report(directory: Path) -> list[Path]:
    """Writes report.md, results.csv and the pictures anew, complete or not.

    A picture that there is nothing for is not written, and an old one removed.

    Returns:
      What was written.

    Raises:
      UserError: the directory holds no sweep, or a file in it is damaged.
    """
    contents = read_contents(directory)
    with alone(directory):
        results = read_results(directory, contents)
        write_csv(epath.Path(directory / RESULTS), table_rows(results))
        pictures = draw_pictures(directory, contents, results)
        text = report_text(contents, results, pictures)
        write_atomically(epath.Path(directory / REPORT), text)
    return [directory / name for name in (REPORT, RESULTS, *pictures)]


def draw_pictures(
    directory: Path, contents: Contents, results: Sequence[RunResult]
) -> list[str]:
    """Draws what there is something for; the names of the files, in order."""
    numeric = numeric_axes(contents)
    paths = {name: epath.Path(directory / name) for name in _CAPTIONS}
    for path in paths.values():
        path.unlink(missing_ok=True)
    draw_lines(paths["lines.png"], results, _MAIN, numeric)
    draw_heat_map(paths["heatmap.png"], results, _MAIN, numeric)
    draw_histogram(paths["histogram.png"], results, _MAIN)
    draw_spread(paths["spread_over_epochs.png"], results)
    draw_val_against_v2(paths["val_against_v2.png"], results)
    return [name for name, path in paths.items() if path.exists()]


def report_text(
    contents: Contents, results: Sequence[RunResult], pictures: Sequence[str]
) -> str:
    """The report as Markdown."""
    lines = [f"# Sweep: {contents.grid or contents.config or 'recipes'}", ""]
    lines += ["```", contents.command, "```", "", *_facts(contents, results), ""]
    for metric in accuracies(results) or [_MAIN]:
        lines += _table(contents, summarise(results, metric), metric)
    for name in pictures:
        lines += [f"![{_CAPTIONS[name]}]({name})", ""]
    return "\n".join([*lines, *_exceptions(results)])


def _facts(contents: Contents, results: Sequence[RunResult]) -> list[str]:
    counts = {s: sum(r.status == s for r in results) for s in STATUSES}
    shown = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    seconds = sum(r.seconds or 0.0 for r in results)
    fixed = [f"--config.{field}={value}" for field, value in contents.fixed.items()]
    lines = [
        f"- recipe: {contents.config or 'an axis of the grid'}",
        f"- set for all runs: {shlex.join(fixed) or 'nothing'}",
        f"- axes: {'; '.join(', '.join(fields) for fields in contents.axes)}",
        f"- {len(results)} runs in {len(by_setting(results))} settings: {shown}",
        f"- {seconds:.0f} s of wall time, all runs together",
        "- accuracies are of the last checkpoint, never the best; std has n - 1; a run "
        "that diverged counts in no mean",
        f"- versions: {', '.join(f'{k} {v}' for k, v in versions().items())}",
    ]
    if contents.grid in GRIDS:
        lines.insert(0, f"- study: {GRIDS[contents.grid].source}")
    return lines


def _table(contents: Contents, summaries: Sequence[Summary], metric: str) -> list[str]:
    """Mean, std, min and max in percent, a line per setting."""
    fields = [f for f, _ in summaries[0].setting] if summaries else []
    troubles = [
        status
        for status in STATUSES[1:]
        if any(summary.counts[status] for summary in summaries)
    ]
    header = [*fields, "n", "mean", "std", "min", "max", *troubles]
    lines = [
        f"## {_TITLES.get(metric, f'Top-1 of {metric}')} (%)",
        "",
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
    ]
    for s in summaries:
        numbers = [percent(value) for value in (s.mean, s.std, s.low, s.high)]
        counts = [str(s.counts[status]) for status in troubles]
        cells = [*(value for _, value in s.setting), str(s.n), *numbers, *counts]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def percent(value: float | None) -> str:
    """A fraction with two decimals in percent; a dash for None."""
    return "-" if value is None else f"{100 * value:.2f}"


def _exceptions(results: Sequence[RunResult]) -> list[str]:
    """What a reader must know of single runs."""
    lines = []
    for r in results:
        if r.status in ("diverged", "failed"):
            lines.append(f"- {r.name}: {r.status} at step {r.step}: {r.reason}")
        for name in r.stale:
            lines.append(
                f"- {r.name}: {name} was evaluated at another step than the last, and "
                f"is left out"
            )
    return ["## Single runs", "", *lines, ""] if lines else []
