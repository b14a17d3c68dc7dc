"""CIFAR-10 from a folder of images, with any model: ``cifar10``, ``cifar10_<model>``.

    python experiments/run.py --config=cifar10 --config.data.source=folder:PATH

PATH holds ``train/CLASS/*`` and ``test/CLASS/*``. ``cifar10`` is a small NF-ResNet with
AGC for two CPU cores (docs/cifar10.md has a run of it);
``cifar10_nfnet_f0`` and its like keep the named network, with a stem that does not
shrink the 32 x 32 images, and a longer schedule for an accelerator. Zero padding, crops
and flips are the usual CIFAR augmentation; the optimizer is the NFNets' with a
larger clipping threshold, since the batch is small (arXiv 2102.06171, Sec. 4.1).
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from nfnets.registry import list_models

VARIANTS = ("", *list_models())

# A network of 0.7 M parameters, for two CPU cores.
_SMALL: dict[str, Any] = {
    "depths": (1, 2, 2),
    "widths": (64, 128, 256),
    "strides": (2, 2, 2),
    "stem_channels": 64,
    "bottleneck_ratio": 0.5,
    "se_ratio": 0.25,
    "skip_gain_init": 1.0,
}


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict()
    config.name = f"cifar10_{variant}" if variant else "cifar10"
    config.model = variant or "nf_resnet50"
    config.reference_model = config.model
    config.model_overrides = ConfigDict({} if variant else _SMALL)
    config.small_images = True
    config.init_from = config_dict.placeholder(str)
    config.dtype = "bfloat16" if variant else "float32"
    config.num_epochs = 100.0 if variant else 6.0
    config.min_steps = 0
    config.batch_size = 256 if variant else 128
    config.accumulation_steps = 1
    config.remat = False
    config.seed = 0
    config.image_size = 32
    config.drop_rate = 0.1
    config.stochastic_depth_rate = 0.1 if variant else 0.0
    config.bn_momentum = config_dict.placeholder(float)  # None: the variant's
    config.bn_unbiased = config_dict.placeholder(bool)  # None: the variant's
    config.label_smoothing = 0.1
    config.loss = "softmax"
    config.bce_target_threshold = config_dict.placeholder(float)
    config.bce_sum_to_one = False
    config.bce_smoothing = "before"
    config.bce_pos_weight = config_dict.placeholder(float)
    config.bce_sum_classes = False
    config.ema_decay = 0.999
    config.ema_schedule = "ramp"
    config.ema_first_update = 0
    config.log_every_steps = 50
    config.checkpoint_every_steps = 500
    config.max_nonfinite_steps = 20
    config.watchdog_minutes = config_dict.placeholder(float)

    config.data = ConfigDict()
    config.data.source = "folder:cifar10"
    config.data.data_dir = config_dict.placeholder(str)
    config.data.num_train = 50000
    config.data.holdout = 0.0
    config.data.drop_last = False
    config.data.num_classes = config_dict.placeholder(int)  # None: the data's
    config.data.reference_classes = 10
    config.data.label_sets = config_dict.placeholder(str)
    config.data.class_map = config_dict.placeholder(str)
    config.data.max_damaged = 0.001
    config.data.threads = 8 if variant else 1
    config.data.backend = "auto"
    config.data.normalization = "imagenet"

    config.augment = ConfigDict()
    config.augment.crop = "pad"
    config.augment.crop_pad = 4
    config.augment.crop_area = (0.08, 1.0)
    config.augment.crop_aspect = (3 / 4, 4 / 3)
    config.augment.flip_rate = 0.5
    config.augment.interpolation = "bilinear"
    config.augment.antialias = False
    config.augment.scaled_decode = False
    config.augment.repeats = 1
    config.augment.mixing = "nfnet"
    config.augment.mixup_alpha = 0.0
    config.augment.cutmix_alpha = 0.0
    config.augment.mix_rate = 1.0
    config.augment.cutmix_rate = 0.5
    config.augment.augment_before_mix = True
    config.augment.semantics = "tf"
    config.augment.autoaugment = config_dict.placeholder(str)
    config.augment.randaugment_layers = 0
    config.augment.randaugment_magnitude = config_dict.placeholder(float)
    config.augment.randaugment_rate = 1.0
    config.augment.randaugment_noise = 0.0
    config.augment.randaugment_increasing = False
    config.augment.erase_rate = 0.0
    config.augment.erase_mode = "const"
    config.augment.erase_count = 1

    config.optim = ConfigDict()
    config.optim.name = "sgd"
    config.optim.schedule = "cosine"
    config.optim.lr_per_256 = 0.4
    config.optim.lr_peak = config_dict.placeholder(float)
    config.optim.lr_start = 0.0
    config.optim.lr_end = 0.0
    config.optim.decay_rate = config_dict.placeholder(float)
    config.optim.decay_epochs = config_dict.placeholder(float)
    config.optim.step_epochs = ()
    config.optim.decay_clock = "after_warmup"
    config.optim.lr_clock = "step"
    config.optim.warmup_epochs = 5.0 if variant else 0.5
    config.optim.cooldown_epochs = 0.0
    config.optim.momentum = 0.9
    config.optim.nesterov = True
    config.optim.rms_decay = config_dict.placeholder(float)
    config.optim.rms_eps = config_dict.placeholder(float)
    config.optim.adam_b1 = config_dict.placeholder(float)
    config.optim.adam_b2 = config_dict.placeholder(float)
    config.optim.adam_eps = config_dict.placeholder(float)
    config.optim.weight_decay = 5e-5
    config.optim.no_decay = (r"(scale|gain|bias\w*)$",)
    config.optim.agc_clipping = 0.08
    config.optim.agc_eps = 1e-3
    config.optim.clip_norm = config_dict.placeholder(float)
    config.optim.no_clip = (r"^head/kernel$",)
    config.optim.frozen = ()
    config.optim.layer_decay = config_dict.placeholder(float)

    config.progressive = ConfigDict()
    config.progressive.stages = 1  # off
    config.progressive.order = "increasing"
    config.progressive.random_epochs = config_dict.placeholder(float)
    config.progressive.skip_first_size = False
    config.progressive.image_size = config_dict.placeholder(int)
    config.progressive.randaugment_magnitude = config_dict.placeholder(float)
    config.progressive.mixup_alpha = config_dict.placeholder(float)
    config.progressive.cutmix_alpha = config_dict.placeholder(float)
    config.progressive.drop_rate = config_dict.placeholder(float)

    config.sam = ConfigDict()
    config.sam.rho = 0.0
    config.sam.batch_fraction = 0.2

    config.eval = ConfigDict()
    config.eval.split = "test"
    config.eval.every_epochs = 10.0 if variant else 2.0
    config.eval.batch_size = 500
    config.eval.image_size = 32
    config.eval.crop = "resize"
    config.eval.crop_pct = config_dict.placeholder(float)  # None: but 32 px
    config.eval.interpolation = "bilinear"
    config.eval.antialias = False
    return config
