"""Parts of a recipe: data, optimizer, SAM and evaluation, as a config states them."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are read.

    Attributes:
      source: ``digits``, ``folder:PATH``, ``tar:PATH``, ``hf:NAME``, ``inat:PATH``,
        ``synthetic`` or ``tfds:NAME`` (docs/data.md).
      data_dir: where TFDS data sets are, may be ``gs://``; None takes $TFDS_DATA_DIR,
        or ~/tensorflow_datasets.
      num_train: training images the recipe was written for; the opened source's own
        number replaces it (``Recipe.for_source``).
      holdout: training images kept from training, to choose settings with
        (``eval.split``): their number, or below 1 their share. NFNet's code keeps
        10000, and 0 for the published numbers; EfficientNetV2's 20 files of 1024.
      drop_last: whether an epoch ends with its last whole batch, as in PyTorch's
        loaders; otherwise a batch may span two epochs and every image is seen.
      num_classes: width of the classifier; the source may hold fewer classes. None
        takes the source's own number (``Recipe.for_source``).
      reference_classes: classes of the data the recipe was written for; ``Recipe`` goes
        by it where ``num_classes`` is None and no source is opened, as in a dry run.
      label_sets: file that gives each class of the data its set of labels, so that an
        image has several, as in ImageNet-21k (``nfnets.data.label_sets``); None leaves
        each image the label it has.
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
    holdout: float
    drop_last: bool
    num_classes: int | None
    reference_classes: int
    label_sets: str | None
    class_map: str | None
    max_damaged: float
    threads: int
    backend: Literal["auto", "native", "python"]
    normalization: Literal["imagenet", "effnetv2", "inception"]


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer, with AGC and masked weight decay, and its schedule.

    Attributes:
      name: ``sgd`` with momentum (NFNets, App. A); ``rmsprop`` as TensorFlow 1 has it
        (EfficientNet): the second moment starts at 1, epsilon is inside the root, the
        learning rate inside the momentum; ``adamw``; ``lamb`` as timm has it (RSB).
      schedule: ``cosine``, ``exponential``, ``step`` or ``constant``, after the warmup.
      lr_per_256: peak learning rate for a batch of 256; it scales with the batch. None
        where ``lr_peak`` is given.
      lr_peak: peak learning rate, whatever the batch; None scales ``lr_per_256``.
      lr_start: learning rate at the first step of the warmup.
      lr_end: learning rate at the last step of ``cosine``, and in the cooldown.
      decay_rate: factor of ``exponential`` and ``step``, in (0, 1]; None with the
        others.
      decay_epochs: epochs per factor of ``exponential``; None with the others.
      step_epochs: the epochs at which ``step`` multiplies by the factor, on its clock;
        empty with the others.
      decay_clock: when the schedule's clock starts: ``after_warmup`` (NFNets), or at
        the first step, ``start``, so that the warmup hides its beginning; the warmup
        is whole steps then (EfficientNet's code, RSB).
      lr_clock: whether the learning rate changes with every ``step``, or is that of the
        first step throughout each ``epoch`` (RSB; it needs ``data.drop_last``).
      warmup_epochs: linear warmup from ``lr_start``, in epochs.
      cooldown_epochs: how long the run goes on after the schedule has ended.
      momentum: in [0, 1); 0 with ``adamw`` and ``lamb``.
      nesterov: whether the momentum is Nesterov's; ``sgd`` only.
      rms_decay: decay of the second moment of ``rmsprop``, [0, 1); None with others.
      rms_eps: epsilon of ``rmsprop``, inside the root; None with others.
      adam_b1: decay of the first moment of ``adamw`` and ``lamb``; None with others.
      adam_b2: likewise of the second moment.
      adam_eps: epsilon of ``adamw`` and ``lamb``, outside the root; None with others.
      weight_decay: L2 coefficient, added to the gradient after clipping; of ``adamw``
        the decoupled one, times the learning rate, and inside the trust ratio of
        ``lamb``. None takes the model variant's.
      no_decay: regexes on "a/b/kernel" paths of parameters that are not decayed.
      agc_clipping: lambda of AGC; None switches clipping off.
      agc_eps: floor of the parameter norm in AGC.
      clip_norm: largest norm of the whole gradient, which is scaled down to it, after
        AGC; 1 in timm's LAMB; None switches that off.
      no_clip: regexes on paths of parameters that AGC leaves alone.
      frozen: regexes on paths of parameters that are not trained (docs/transfer.md).
      layer_decay: factor of the learning rate from each layer to the one before it,
        (0, 1]; the classifier has the whole rate (``nfnets.training.layer_decay``).
        None: all have.
    """

    name: Literal["sgd", "rmsprop", "adamw", "lamb"]
    schedule: Literal["cosine", "exponential", "step", "constant"]
    lr_per_256: float | None
    lr_peak: float | None
    lr_start: float
    lr_end: float
    decay_rate: float | None
    decay_epochs: float | None
    step_epochs: tuple[float, ...]
    decay_clock: Literal["after_warmup", "start"]
    lr_clock: Literal["step", "epoch"]
    warmup_epochs: float
    cooldown_epochs: float
    momentum: float
    nesterov: bool
    rms_decay: float | None
    rms_eps: float | None
    adam_b1: float | None
    adam_b2: float | None
    adam_eps: float | None
    weight_decay: float | None
    no_decay: tuple[str, ...]
    agc_clipping: float | None
    agc_eps: float
    clip_norm: float | None
    no_clip: tuple[str, ...]
    frozen: tuple[str, ...]
    layer_decay: float | None


@dataclasses.dataclass(frozen=True)
class ProgressiveConfig:
    """Progressive learning (EfficientNetV2, Sec. 4 and Algorithm 1), for any network.

    Image size and regularisation go linearly, in M settings, from the values here to
    the recipe's own; what is None here stays at the recipe's own value throughout. In
    increasing order each setting is one stage, and all are equally long.

    Attributes:
      stages: M, the number of settings; 1 switches progressive learning off.
      order: ``increasing`` (the paper's method), or ``random``, the paper's comparison:
        every ``random_epochs`` one of the M settings is drawn from ``seed``.
      random_epochs: epochs per draw of ``random``, 8 in the paper; None otherwise.
      skip_first_size: whether the sizes are the last M of M + 1 equally spaced ones, as
        in the released code, so that no stage has the first size.
      image_size: S_0, pixels of the first setting (or before it: skip_first_size).
      randaugment_magnitude: of the first setting, out of 10.
      mixup_alpha: likewise; 0 for none.
      cutmix_alpha: likewise; 0 for none.
      drop_rate: likewise, [0, 1).
    """

    stages: int
    order: Literal["increasing", "random"]
    random_epochs: float | None
    skip_first_size: bool
    image_size: int | None
    randaugment_magnitude: float | None
    mixup_alpha: float | None
    cutmix_alpha: float | None
    drop_rate: float | None


# No progressive learning.
CONSTANT = ProgressiveConfig(
    stages=1,
    order="increasing",
    random_epochs=None,
    skip_first_size=False,
    image_size=None,
    randaugment_magnitude=None,
    mixup_alpha=None,
    cutmix_alpha=None,
    drop_rate=None,
)


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
      crop: one of ``augment_config.EVAL_CROPS`` (``EvalCrop`` says what each does).
      crop_pct: share of the resized side that is kept, (0, 1]; None keeps all but 32
        pixels; ``resize`` and ``v2`` do not read it.
      interpolation: one of ``augment_config.KERNELS``.
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
