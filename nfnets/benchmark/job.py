"""What a process that measures is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nfnets.benchmark.variants import Variant


@dataclass(frozen=True)
class Job:
    """One measurement; strings and numbers only, since it travels as JSON.

    Attributes:
        variant: name of one of ``variants.VARIANTS``.
        directory: holds the images, see ``images.write_containers``.
        size: S, the side of the images.
        batch_size: images per batch.
        batches: that are measured.
        policy: one of ``variants.POLICIES``.
        threads: or worker processes that make batches; as many as cores.
    """

    variant: str
    directory: str
    size: int
    batch_size: int
    batches: int
    policy: str
    threads: int


# Batches without end, each an array of uint8 [..., S, S, 3] or [..., 3, S, S] that
# holds batch_size images; of ``decode`` the number of images.
Loader = Callable[[Job, Variant], Iterator[Any]]
