"""Parts of a recipe: data, optimizer, SAM and evaluation, as a config states them."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are read.

    Attributes:
      source: ``digits``, ``folder:PATH``, ``tar:PATH``, ``hf:NAME``, ``synthetic`` or
        ``tfds:NAME`` (docs/data.md).
      data_dir: where TFDS data sets are, may be ``gs://``; None takes $TFDS_DATA_DIR,
        or ~/tensorflow_datasets.
      num_train: training images the recipe was written for; the opened source's own
        number replaces it (``Recipe.for_source``).
      holdout: training images kept from training, to choose settings with
        (``eval.split``); 10000 in the official code, 0 for the published numbers.
      num_classes: width of the classifier; the source may hold fewer classes. None
        takes the source's own number (``Recipe.for_source``).
      reference_classes: classes of the data the recipe was written for; ``Recipe`` goes
        by it where ``num_classes`` is None and no source is opened, as in a dry run.
      class_map: file that maps folder names to labels; None sorts the names.
      max_damaged: share of the images seen, in [0, 1], that may be damaged before a run
        stops (never before 10 are).
      threads: decoding threads; the batches do not depend on it.
      backend: what makes the batches: ``native`` (C++), ``python`` (packages that come
        as wheels), or ``auto``: native where it was built.
      normalization: of the pixels, a key of ``data.normalization.NORMALIZATIONS``.
    """

    source: str
    data_dir: str | None
    num_train: int
    holdout: int
    num_classes: int | None
    reference_classes: int
    class_map: str | None
    max_damaged: float
    threads: int
    backend: Literal["auto", "native", "python"]
    normalization: Literal["imagenet", "effnetv2", "inception"]


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """SGD with momentum, AGC and masked weight decay (NFNets, App. A).

    Attributes:
      schedule: ``cosine`` or ``exponential``, both after the warmup.
      lr_per_256: peak learning rate for a batch of 256; it scales with the batch.
      lr_end: learning rate at the last step of ``cosine``.
      decay_rate: factor of ``exponential``, in (0, 1]; None with ``cosine``.
      decay_epochs: epochs per factor of ``exponential``; None with ``cosine``.
      warmup_epochs: linear warmup from 0, in epochs.
      momentum: in [0, 1).
      nesterov: whether the momentum is Nesterov's.
      weight_decay: coupled L2 coefficient, added after clipping; None takes the model
        variant's.
      no_decay: regexes on "a/b/kernel" paths of parameters that are not decayed.
      agc_clipping: lambda of AGC; None switches clipping off.
      agc_eps: floor of the parameter norm in AGC.
      no_clip: regexes on paths of parameters that AGC leaves alone.
    """

    schedule: Literal["cosine", "exponential"]
    lr_per_256: float
    lr_end: float
    decay_rate: float | None
    decay_epochs: float | None
    warmup_epochs: float
    momentum: float
    nesterov: bool
    weight_decay: float | None
    no_decay: tuple[str, ...]
    agc_clipping: float | None
    agc_eps: float
    no_clip: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class SamConfig:
    """Sharpness-aware minimisation (arXiv 2010.01412), as NFNet-F6 was trained with.

    Attributes:
      rho: radius of the ascent step; 0 switches SAM off.
      batch_fraction: share of a device's batch that the ascent sees, in (0, 1].
    """

    rho: float
    batch_fraction: float


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What is evaluated, how, and how often.

    Attributes:
      split: ``test``, or ``holdout``: the ``data.holdout`` images kept from training.
      every_epochs: between evaluations; the last step is always evaluated.
      batch_size: images per step over all devices; the result does not depend on it.
      image_size: pixels; None takes the model variant's test size.
      crop: ``resize``, ``resize_crop`` or ``crop_resize`` (``nfnets.data.augment``).
      crop_pct: share of the resized side that is kept, (0, 1]; None keeps all but 32
        pixels.
      interpolation: ``bilinear`` or ``bicubic``.
      antialias: whether downscaling widens the kernel.
    """

    split: Literal["test", "holdout"]
    every_epochs: float
    batch_size: int
    image_size: int | None
    crop: str
    crop_pct: float | None
    interpolation: str
    antialias: bool
