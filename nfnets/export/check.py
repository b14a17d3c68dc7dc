"""Runs an exported file where this project is not imported, and compares its logits."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from nfnets.export.network import Network

# Difference of two logits, of the largest one.
TOLERANCE = 1e-5
BATCH_SIZES = (1, 3)

# CPUs only, where float32 is float32: GPUs and TPUs may multiply with fewer bits.
_ON_CPU = {
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Follows the lines that define ``run``.
_COMPARED = """
import sys

import numpy as np

images = np.load(sys.argv[1])
for size in map(int, sys.argv[3:]):
    np.save(f"{sys.argv[2]}/{size}.npy", np.asarray(run(images[:size])))
ours = {"nfnets", "effnetv2", "resnet_rs"}.intersection(sys.modules)
if ours:
    sys.exit(f"loading imports {ours}")
"""


class ExportError(RuntimeError):
    """What was exported does not do what the network does; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well an exported file agrees with the network.

    Attributes:
      batch_sizes: on which it ran.
      difference: the largest of two logits.
      largest: logit of the network, by magnitude.
    """

    batch_sizes: tuple[int, ...]
    difference: float
    largest: float

    @property
    def relative(self) -> float:
        """The difference, of the largest logit; 0 where all logits are."""
        return self.difference / self.largest if self.largest else 0.0


def check(network: Network, load: str) -> Agreement:
    """Runs an exported file on batches of noise, in a fresh process, on the CPU.

    Args:
      network: what was exported.
      load: Python that defines ``run``, with the path in place.

    Raises:
      ExportError: it does not run, or its logits are others.
    """
    shape = (max(BATCH_SIZES), network.image_size, network.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = np.asarray(jax.jit(network.logits)(network.variables, images))
    largest, difference = float(np.abs(expected).max()), 0.0
    for size, logits in zip(BATCH_SIZES, _run(load, images), strict=True):
        if logits.shape != (size, expected.shape[1]) or logits.dtype != np.float32:
            raise ExportError(
                f"of {size} images it gives {logits.dtype} {list(logits.shape)}, "
                f"expected float32 {[size, expected.shape[1]]}"
            )
        difference = max(difference, float(np.abs(logits - expected[:size]).max()))
    if not difference <= TOLERANCE * largest:  # nor if they are not finite
        raise ExportError(
            f"its logits differ from the network's by up to {difference:.2e}; expected "
            f"at most {TOLERANCE:g} of the largest, {largest:.4g}"
        )
    return Agreement(BATCH_SIZES, difference, largest)


def _run(load: str, images: np.ndarray) -> list[np.ndarray]:
    """Logits of the first images, for each batch size."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        np.save(file, images)
        # -P: nothing is imported because it lies in the present folder.
        command = [sys.executable, "-P", "-c", load + _COMPARED, str(file), folder]
        done = subprocess.run(
            [*command, *map(str, BATCH_SIZES)],
            env=os.environ | _ON_CPU,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(f"it does not run (status {done.returncode}): {last}")
        return [np.load(f"{folder}/{size}.npy") for size in BATCH_SIZES]
