"""Our counts of parameters, multiply-adds and activations beside the published ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from decimal import Decimal

from nfnets.flops import Counts, count
from nfnets.published import Published, published
from nfnets.registry import create_model, get_variant

# Field of Counts, field of Published, unit of the latter, its name.
QUANTITIES = (
    ("params", "params_m", 10**6, "parameters (M)"),
    ("macs", "gmacs", 10**9, "GMACs"),
    ("activations", "activations_m", 10**6, "activations (M)"),
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One number of ours beside a published one."""

    model: str
    image_size: int  # pixels
    quantity: str
    ours: Decimal  # in the unit of the quantity, all digits
    published: Decimal  # as printed
    within_rounding: bool
    source: str
    kind: str  # of the source: published, counted or memory
    url: str
    why: str  # of a difference beyond rounding, else empty

    @property
    def difference_percent(self) -> float:
        """How much larger ours is."""
        return float(100 * (self.ours / self.published - 1))


def count_model(name: str, image_size: int | None = None) -> Counts:
    """Counts with 1000 classes; None is the test size."""
    size = get_variant(name).eval_size if image_size is None else image_size
    return count(create_model(name, num_classes=1000), size)


def compare_models(names: Iterable[str]) -> Iterator[Comparison]:
    """Every number that can be counted and has a source, in the order of the models."""
    for name in names:
        counted: dict[int, Counts] = {}
        for row in published(name):
            if (row.params_m, row.gmacs, row.activations_m) == (None, None, None):
                continue
            size = row.image_size or get_variant(name).eval_size
            if size not in counted:
                counted[size] = count_model(name, size)
            yield from compare(row, counted[size], size)


def compare(row: Published, counts: Counts, image_size: int) -> Iterator[Comparison]:
    """The numbers of a row that are computable, beside ours at that size."""
    for ours_name, printed_name, unit, title in QUANTITIES:
        printed = getattr(row, printed_name)
        if printed is None:
            continue
        ours = Decimal(getattr(counts, ours_name)) / unit
        close = abs(ours - printed) <= half_a_digit(printed)
        yield Comparison(
            model=row.model,
            image_size=image_size,
            quantity=title,
            ours=ours,
            published=printed,
            within_rounding=close,
            source=row.source.name,
            kind=row.source.kind,
            url=row.source.url,
            why="" if close else row.why,
        )


def half_a_digit(printed: Decimal) -> Decimal:
    """Half a unit of the last digit: 0.05 for 71.5, 0.5 for 22."""
    return Decimal(5).scaleb(int(printed.as_tuple().exponent) - 1)
