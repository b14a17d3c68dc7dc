"""The training recipe: facts from a config, and every formula that follows from them.

Configs (``experiments/configs``) state facts; the properties of ``Recipe`` compute what
follows from them, after command-line overrides were applied, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp

from nfnets import registry
from nfnets.data import timm_policy
from nfnets.data.augment_config import AugmentConfig, EvalCrop, check_policy
from nfnets.errors import UserError
from nfnets.training.recipe_check import check
from nfnets.training.recipe_parts import (
    DataConfig,
    EvalConfig,
    OptimConfig,
    ProgressiveConfig,
    SamConfig,
)
from nfnets.training.stages import Stage, make_stages
from nfnets.training.typed_config import from_mapping


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides a run's numbers, fully typed.

    Attributes:
      name: the config's name.
      model: any name of ``nfnets.registry``.
      reference_model: the model that the recipe was written for. ``model_overrides``
        are for it alone, and where "the model variant's" value is asked for and
        ``model`` has none, this one's is taken.
      model_overrides: fields of the reference model's variant row to replace.
      small_images: whether networks get their family's stem for small images
        (``registry.small_image_overrides``), which does not shrink them.
      init_from: what to start from: a file of weights (``nfnets.weights.load_weights``)
        or the work directory of a run (``nfnets.training.run_weights``); None starts
        from random weights.
      dtype: of convolutions and activations; parameters stay float32.
      num_epochs: passes over the training images, may be fractional.
      min_steps: the run is at least so long, whatever ``num_epochs`` gives.
      batch_size: images per optimizer step, over all devices and micro-batches.
      accumulation_steps: micro-batches a step is split into, to save memory.
      remat: whether blocks are computed again in the gradient, to save memory
        (``nfnets.layers.call_block``).
      seed: of initialisation, data order, augmentation, dropout; [0, 2**32).
      image_size: training pixels; None takes the model variant's.
      drop_rate: dropout; None takes the model variant's.
      stochastic_depth_rate: of the last block; None takes the model variant's.
      bn_momentum: of BatchNorm's running averages, [0, 1), where the network has them;
        None takes the model variant's. 0 leaves the averaging to ``ema_decay``.
      bn_unbiased: whether the running variance is the unbiased estimate, as in PyTorch,
        where the network has one; None takes the model variant's.
      label_smoothing: mass spread over all classes, [0, 1).
      loss: of training: cross-entropy after ``softmax``, or ``bce``, a binary one per
        class (RSB). Evaluation reports softmax cross-entropy under both, as timm does.
      bce_target_threshold: targets of ``bce`` above it become 1, the others 0, which
        undoes smoothing; [0, 1); None keeps the mixed, smoothed targets, whose sum is
        one. At 0 each class of a mixed image is a target, whatever its weight.
      bce_sum_to_one: whether the targets above the threshold share a mass of 1.
      bce_smoothing: whether labels are smoothed ``before`` the threshold (timm), which
        forgets it, or ``after`` it.
      bce_pos_weight: factor of the loss of the target classes; None is 1.
      bce_sum_classes: whether ``bce`` is summed over the classes; the mean otherwise.
      ema_decay: cap of the averaging decay; None keeps no average.
      ema_schedule: of the decay: ``ramp``, or ``constant`` from the first (as
        timm's ``ModelEmaV2``; its successor's first update copies the weights).
      ema_first_update: n of the first update in the ``ramp``,
        min(ema_decay, (1 + n) / (10 + n)): 0 in NFNet's code, 1 in EfficientNetV2's.
      log_every_steps: steps per row of ``metrics.jsonl``.
      checkpoint_every_steps: steps between checkpoints.
      max_nonfinite_steps: stop after this many skipped updates in a row.
      watchdog_minutes: end the program when no step, evaluation batch or compilation
        finished for so long (None: never).
    """

    name: str
    model: str
    reference_model: str
    model_overrides: Mapping[str, Any]
    small_images: bool
    init_from: str | None
    dtype: Literal["float32", "bfloat16"]
    num_epochs: float
    min_steps: int
    batch_size: int
    accumulation_steps: int
    remat: bool
    seed: int
    image_size: int | None
    drop_rate: float | None
    stochastic_depth_rate: float | None
    bn_momentum: float | None
    bn_unbiased: bool | None
    label_smoothing: float
    loss: Literal["softmax", "bce"]
    bce_target_threshold: float | None
    bce_sum_to_one: bool
    bce_smoothing: Literal["before", "after"]
    bce_pos_weight: float | None
    bce_sum_classes: bool
    ema_decay: float | None
    ema_schedule: Literal["ramp", "constant"]
    ema_first_update: int
    log_every_steps: int
    checkpoint_every_steps: int
    max_nonfinite_steps: int
    watchdog_minutes: float | None
    data: DataConfig
    augment: AugmentConfig
    optim: OptimConfig
    progressive: ProgressiveConfig
    sam: SamConfig
    eval: EvalConfig

    @classmethod
    def from_config(cls, config: Any) -> Recipe:
        """Reads an ``ml_collections.ConfigDict`` (or any mapping) strictly.

        Raises:
          UserError: an entry is unknown, missing, ill-typed or out of range, by its
            dotted path; or the model is unknown.
        """
        values = config.to_dict() if hasattr(config, "to_dict") else config
        recipe = from_mapping(cls, values)
        check(recipe)
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """The recipe as nested plain values; ``from_config`` reads it back."""
        return dataclasses.asdict(self)

    def for_source(self, *, num_classes: int, num_train: int | None = None) -> Recipe:
        """The recipe for an opened data set.

        Args:
          num_classes: the data set's; a number that the config states stays.
          num_train: training images; None keeps the config's number, for evaluation.

        Raises:
          UserError: the recipe does not work with so many classes or images.
        """
        data = dataclasses.replace(
            self.data,
            num_train=self.data.num_train if num_train is None else num_train,
            num_classes=self.data.num_classes or num_classes,
        )
        recipe = dataclasses.replace(self, data=data)
        check(recipe)
        return recipe

    @property
    def num_classes(self) -> int:
        """Width of the classifier; before ``for_source``, perhaps the reference's."""
        return self.data.num_classes or self.data.reference_classes

    @property
    def variant(self) -> Any:
        """The model's row of its VARIANTS table, with the overrides in place."""
        return registry.get_variant(self.model, **self.overrides)

    @property
    def overrides(self) -> dict[str, Any]:
        """Fields of the model's variant row that the recipe replaces."""
        stem = registry.small_image_overrides(self.model) if self.small_images else {}
        row = registry.get_variant(self.model)
        norm = {"bn_momentum": self.bn_momentum, "bn_unbiased": self.bn_unbiased}
        norm = {k: v for k, v in norm.items() if v is not None and hasattr(row, k)}
        own = self.model_overrides if self.model == self.reference_model else {}
        return {**stem, **norm, **own}

    @property
    def peak_lr(self) -> float:
        """``lr_peak``, or lr_per_256 * batch_size / 256 (NFNets, App. A)."""
        if self.optim.lr_peak is not None:
            return self.optim.lr_peak
        assert self.optim.lr_per_256 is not None  # from_config has checked
        return self.optim.lr_per_256 * self.batch_size / 256

    @property
    def steps_per_epoch(self) -> float:
        """Steps per pass: 1281167 / 4096 = 312.785 for NFNets, whole by ``drop_last``.

        timm's 625 of A2 are 1281167 // 2048.
        """
        steps = self.data.num_train / self.batch_size
        return float(max(1, int(steps))) if self.data.drop_last else steps

    @property
    def schedule_steps(self) -> int:
        """Steps of ``num_epochs``, at least ``min_steps`` and at least 1."""
        if self.data.drop_last:
            steps = int(self.num_epochs * self.steps_per_epoch)
        else:
            steps = int(self.data.num_train * self.num_epochs // self.batch_size)
        return max(1, self.min_steps, steps)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run, the cooldown included."""
        cooldown = int(self.optim.cooldown_epochs * self.steps_per_epoch)
        return self.schedule_steps + cooldown

    @property
    def warmup_steps(self) -> float:
        """Steps of linear warmup: not rounded in NFNet's code, whole in EfficientNet's.

        ``optim.decay_clock`` says which.
        """
        steps = self.optim.warmup_epochs * self.steps_per_epoch
        return float(int(steps)) if self.optim.decay_clock == "start" else steps

    @property
    def weight_decay(self) -> float:
        """Coupled L2 coefficient: ``optim.weight_decay``, or the model variant's."""
        return self._or_variant("weight_decay", self.optim.weight_decay)

    @property
    def eval_every_steps(self) -> float:
        """Steps between evaluations, not rounded, at least 1."""
        return max(1.0, self.eval.every_epochs * self.steps_per_epoch)

    @property
    def train_image_size(self) -> int:
        """Training pixels: ``image_size``, or else the model variant's."""
        size = self.image_size
        return self.variant.train_size if size is None else size

    @property
    def eval_image_size(self) -> int:
        """Test pixels: ``eval.image_size``, or else the model variant's."""
        size = self.eval.image_size
        return self.variant.eval_size if size is None else size

    @property
    def eval_crop(self) -> EvalCrop:
        """The evaluation preprocessing."""
        return EvalCrop(
            crop=self.eval.crop,
            crop_pct=self.eval.crop_pct,
            interpolation=self.eval.interpolation,
            antialias=self.eval.antialias,
        )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of training, in order; their steps sum to ``total_steps``."""
        return make_stages(
            self.progressive,
            self.constant_stage,
            steps_per_epoch=self.steps_per_epoch,
            seed=self.seed,
        )

    @property
    def constant_stage(self) -> Stage:
        """The whole run without progressive learning: what the last stage is like."""
        return Stage(
            steps=self.total_steps,
            image_size=self.train_image_size,
            augment=self._resolved_augment(),
            drop_rate=self._or_variant("drop_rate", self.drop_rate),
        )

    def create_model(self) -> Any:
        """The network, in the recipe's dtype, with its regularisation rates."""
        rate = self._or_variant("stochastic_depth_rate", self.stochastic_depth_rate)
        model = registry.create_model(
            self.model,
            num_classes=self.num_classes,
            dtype=jnp.dtype(self.dtype),
            **self.overrides,
        )
        return model.clone(
            drop_rate=self.constant_stage.drop_rate,
            stochastic_depth_rate=rate,
            remat=self.remat,
        )

    def _resolved_augment(self) -> AugmentConfig:
        augment = self.augment
        check_policy(augment)
        if augment.semantics == "timm" and augment.autoaugment is not None:
            policy = timm_policy.parse(augment.autoaugment)
            augment = dataclasses.replace(augment, **policy)
        if augment.randaugment_layers == 0:
            return dataclasses.replace(augment, randaugment_magnitude=0.0)
        magnitude = self._or_variant(
            "randaugment_magnitude", augment.randaugment_magnitude
        )
        return dataclasses.replace(augment, randaugment_magnitude=magnitude)

    def _or_variant(self, field: str, value: float | None) -> float:
        """``value``, or the model variant's own value of ``field`` when it is None."""
        if value is not None:
            return value
        for row in (self.variant, registry.get_variant(self.reference_model)):
            if getattr(row, field, None) is not None:
                return float(getattr(row, field))
        raise UserError(
            f"{field} is None, which means the model's own, but neither {self.model} "
            f"nor {self.reference_model} has one; give the config a number"
        )
