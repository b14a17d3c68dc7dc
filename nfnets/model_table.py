"""The table of all networks, and how it and other records are written out.

``experiments/models.py`` prints it; the README's table of networks is its output.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from nfnets.count_comparison import Comparison, count_model
from nfnets.flops import Counts
from nfnets.published import headline
from nfnets.registry import get_variant

FORMATS = ("table", "markdown", "csv", "json")

Record = dict[str, Any]  # what csv and json show: numbers without rounding


class Column(NamedTuple):
    """A column that people read; ``width`` and ``right`` are for the aligned table."""

    title: str
    width: int
    text: Callable[[Record], str]
    right: bool = True


def network_record(name: str, counts: Counts | None = None) -> Record:
    """A model's counts at its test size (None: counted here), sizes and accuracy."""
    row, best = get_variant(name), headline(name)
    counts = count_model(name) if counts is None else counts
    return {
        "model": name,
        **counts._asdict(),
        "eval_size": row.eval_size,
        "train_size": row.train_size,
        "published_params_m": best and _number(best.params_m),
        "published_gmacs": best and _number(best.gmacs),
        "published_top1": best and _number(best.top1),
        "training": best and best.training,
        "source": best and best.source.name,
        "url": best and best.source.url,
    }


def comparison_record(comparison: Comparison) -> Record:
    """A comparison with plain numbers."""
    return {
        **dataclasses.asdict(comparison),
        "ours": float(comparison.ours),
        "published": _number(comparison.published),
        "difference_percent": round(comparison.difference_percent, 3),
    }


def _number(printed: Any) -> str | None:
    """All digits as printed: 145.0 has four."""
    return None if printed is None else str(printed)


def _top1(record: Record) -> str:
    if record["published_top1"] is None:
        return ""
    training = f" ({record['training']})" if record["training"] else ""
    return f"{float(record['published_top1']):.1f}{training}"


def _published(record: Record) -> str:
    mark = " (from memory)" if record["kind"] == "memory" else ""
    return f"{record['published']}{mark}"


def _verdict(record: Record) -> str:
    if record["within_rounding"]:
        return "rounding"
    return record["why"] or "NOT EXPLAINED"


NETWORK_COLUMNS = (
    Column("model", 22, lambda r: r["model"], right=False),
    Column("parameters (M)", 14, lambda r: f"{r['params'] / 1e6:.2f}"),
    Column("GMACs", 7, lambda r: f"{r['macs'] / 1e9:.2f}"),
    Column("activations (M)", 15, lambda r: f"{r['activations'] / 1e6:.2f}"),
    Column("at px", 5, lambda r: str(r["eval_size"])),
    Column("trained at", 10, lambda r: str(r["train_size"])),
    Column("published: M", 12, lambda r: r["published_params_m"] or ""),
    Column("GFLOPs", 7, lambda r: r["published_gmacs"] or ""),
    Column("top-1", 18, _top1),
    Column("source", 0, lambda r: r["source"] or "", right=False),
)

COMPARISON_COLUMNS = (
    Column("model", 22, lambda r: r["model"], right=False),
    Column("at px", 5, lambda r: str(r["image_size"])),
    Column("quantity", 15, lambda r: r["quantity"], right=False),
    Column("ours", 10, lambda r: f"{r['ours']:.3f}"),
    Column("published", 18, _published),
    Column("difference", 10, lambda r: f"{r['difference_percent']:+.2f} %"),
    Column("source", 23, lambda r: r["source"], right=False),
    Column("because", 0, _verdict, right=False),
)


def lines(
    records: Iterable[Record], columns: tuple[Column, ...], form: str
) -> Iterator[str]:
    """Lines of a table, each as soon as its record is there (but of json).

    Args:
      records: what to show, all with the same keys.
      columns: what "table" and "markdown" show of them; "csv" and "json" show all.
      form: one of `FORMATS`.
    """
    if form == "json":
        yield json.dumps(list(records), indent=2)
    elif form == "csv":
        yield from _csv_lines(records)
    elif form == "markdown":
        yield "| " + " | ".join(column.title for column in columns) + " |"
        yield "|" + "---|" * len(columns)
        for record in records:
            yield markdown_line(record, columns)
    else:
        yield _aligned([column.title for column in columns], columns)
        for record in records:
            yield _aligned([column.text(record) for column in columns], columns)


def markdown_line(record: Record, columns: tuple[Column, ...]) -> str:
    """A row of a Markdown table; names of models are code."""
    first, *rest = (column.text(record) for column in columns)
    return f"| `{first}` | " + " | ".join(rest) + " |"


def _aligned(cells: list[str], columns: tuple[Column, ...]) -> str:
    parts = [
        cell.rjust(column.width) if column.right else cell.ljust(column.width)
        for cell, column in zip(cells, columns, strict=True)
    ]
    return "  ".join(parts).rstrip()


def _csv_lines(records: Iterable[Record]) -> Iterator[str]:
    for index, record in enumerate(records):
        text = io.StringIO()
        writer = csv.DictWriter(text, record, lineterminator="")
        if index == 0:
            writer.writeheader()
            yield text.getvalue()
            text.seek(text.truncate(0))
        writer.writerow(record)
        yield text.getvalue()
