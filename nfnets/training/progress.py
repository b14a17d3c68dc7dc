"""What a person sees of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import jax
from tqdm import tqdm

from nfnets.training import processes
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe

# Off a terminal, a plain line at most this often.
SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows steps, speed, loss, accuracy and the time left.

    Args:
      recipe: for the number of steps.
      first_step: steps done before this start.
    """

    def __init__(self, recipe: Recipe, first_step: int) -> None:
        self._total = recipe.total_steps
        self._first = first_step
        self._started: float | None = None
        self._last_line = 0.0
        self._bar = tqdm(
            total=self._total,
            initial=first_step,
            unit="step",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty() or not processes.is_main(),
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def say(self, message: str) -> None:
        """Prints a line without tearing the bar; only process 0 speaks."""
        if processes.is_main():
            self._bar.write(message, file=sys.stdout)
            sys.stdout.flush()

    def warn(self, message: str) -> None:
        """Prints what concerns one process, on any of them."""
        if processes.is_main():
            self.say(message)
        else:
            print(f"process {jax.process_index()}: {message}", flush=True)

    def advance(self) -> None:
        """Counts one step; costs no look at the device."""
        if self._started is None:  # not before: what was compiled is no step's time
            self._started = self._bar.start_t = time.time()
        self._bar.update()

    def show(self, row: Row) -> None:
        """Shows a training row: in the bar, or as a line if the last one is old."""
        parts = {
            "epoch": f"{row['epoch']:.2f}",
            "loss": _number(row["train/loss"]),
            "top1": _number(row["train/top1"]),
            "img/s": f"{row['train/images_per_second']:.0f}",
            "waiting": f"{row['train/input_wait']:.0%}",
        }
        if "train/agc_clipped" in row:
            parts["clipped"] = _number(row["train/agc_clipped"])
        self._bar.set_postfix(parts, refresh=False)
        now = time.time()
        is_last = row["step"] == self._total
        if self._bar.disable and (
            is_last or now - self._last_line >= SECONDS_BETWEEN_LINES
        ):
            self._last_line = now
            done = max(1, row["step"] - self._first)
            left = (now - (self._started or now)) / done * (self._total - row["step"])
            text = "  ".join(f"{key} {value}" for key, value in parts.items())
            self.say(f"step {row['step']}/{self._total}  {text}  left {left:.0f} s")


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
