"""From measurements to the rows of a table: medians, and ratios within a round."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nfnets.benchmark.runner import Measurement
from nfnets.benchmark.variants import Variant

# Rows that the others are compared with, and what the table calls the ratio.
REFERENCES = {
    "tf.data bilinear": "x tf.data bilinear",
    "tf.data bicubic": "x tf.data bicubic",
    "torch + timm": "x torch + timm",
    "full decode": "x full decode",
}
# Below this, something else ran on the cores or the loader waited: only ratios of CPU
# rates mean anything then.
LEAST_UTILISATION = 0.9


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and the least and greatest."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        row: its name.
        mode: of the variants of the row the one with the highest CPU rate.
        crop: law of the box, or empty.
        kernel: class of the resize, or ``-``.
        cpu_rate: images per CPU second.
        wall_rate: images per second.
        pss_mb: median memory in MiB.
        utilisation: median.
        busy: whether that is below ``LEAST_UTILISATION``.
        ratios: of CPU rates in the same round, by the reference's row.
    """

    row: str
    mode: str
    crop: str
    kernel: str
    cpu_rate: Spread
    wall_rate: Spread
    pss_mb: float
    utilisation: float
    busy: bool
    ratios: dict[str, Spread]


def spread(values: Iterable[float]) -> Spread:
    """Median, least and greatest of one value or more."""
    values = list(values)
    return Spread(statistics.median(values), min(values), max(values))


def ratio_spread(
    rates: Mapping[int, float], references: Mapping[int, float]
) -> Spread | None:
    """The spread of the ratios in rounds that have both; ``None`` where none has."""
    both = rates.keys() & references.keys()
    return spread(rates[i] / references[i] for i in both) if both else None


def make_rows(
    variants: Sequence[Variant], measured: Sequence[Measurement]
) -> list[Row]:
    """One row per row name, in the order of the variants, of the best mode."""
    by_name: dict[str, list[Measurement]] = {}
    for result in measured:
        by_name.setdefault(result.variant, []).append(result)
    best: dict[str, Variant] = {}
    for variant in variants:
        if variant.name in by_name:
            rival = best.get(variant.row, variant)
            rates = {v: _median_rate(by_name[v.name]) for v in (rival, variant)}
            best[variant.row] = max(rates, key=lambda v: rates[v])
    rates_of = {
        row: {result.round: result.cpu_rate for result in by_name[variant.name]}
        for row, variant in best.items()
    }
    return [
        _make_row(variant, by_name[variant.name], rates_of) for variant in best.values()
    ]


def _median_rate(results: Iterable[Measurement]) -> float:
    return statistics.median(result.cpu_rate for result in results)


def _make_row(
    variant: Variant,
    results: Sequence[Measurement],
    rates_of: Mapping[str, Mapping[int, float]],
) -> Row:
    ratios = {
        reference: ratio_spread(rates_of[variant.row], rates_of[reference])
        for reference in REFERENCES
        if reference in rates_of
    }
    utilisation = statistics.median(result.utilisation for result in results)
    return Row(
        row=variant.row,
        mode=variant.mode,
        crop=variant.crop,
        kernel=variant.kernel_class,
        cpu_rate=spread(result.cpu_rate for result in results),
        wall_rate=spread(result.wall_rate for result in results),
        pss_mb=statistics.median(result.pss_mb for result in results),
        utilisation=utilisation,
        busy=utilisation < LEAST_UTILISATION,
        ratios={name: ratio for name, ratio in ratios.items() if ratio is not None},
    )


def format_table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    references = [name for name in REFERENCES if any(name in r.ratios for r in rows)]
    titles = ["loader", "kernel", "images / CPU s", "images / s", "MB", "utilisation"]
    lines = [[*titles, *(REFERENCES[name] for name in references)]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        name = f"{row.row} ({row.mode})" if row.mode else row.row
        busy = " machine busy" if row.busy else ""
        cells = [name, row.kernel, _whole(row.cpu_rate), f"{row.wall_rate.median:.0f}"]
        cells += [f"{row.pss_mb:.0f}", f"{row.utilisation:.2f}{busy}"]
        cells += [_ratio(row.ratios.get(reference)) for reference in references]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _whole(value: Spread) -> str:
    return f"{value.median:.0f} ({value.low:.0f}-{value.high:.0f})"


def _ratio(value: Spread | None) -> str:
    if value is None:
        return "-"
    return f"{value.median:.2f} ({value.low:.2f}-{value.high:.2f})"
