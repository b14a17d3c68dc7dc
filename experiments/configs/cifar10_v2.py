"""A narrow EfficientNetV2 on CIFAR-10 with progressive learning, for two CPU cores.

    python experiments/run.py --config=cifar10_v2 --config.data.source=folder:PATH

Four stages from 16 to 32 pixels, regularised more and more; ``cifar10_v2_fixed`` has 32
pixels and full regularisation throughout, and is otherwise the same. A comparison of
the two is in docs/progressive.md. ``cifar10_v2_unfused`` has MBConv in every group.

The optimizer is EfficientNetV2's (arXiv 2104.00298) with a cosine, since its own
schedule is made for hundreds of epochs; RandAugment is timm's, since Google's moves
images by up to 100 pixels.
"""

from ml_collections import ConfigDict, config_dict

VARIANTS = ("", "fixed", "unfused")

# Fused-MBConv early, as in the paper's networks; 0.4 M parameters.
_STAGES = (
    "r1_k3_s1_e1_i16_o16_c1",
    "r2_k3_s2_e4_i16_o24_c1",
    "r2_k3_s2_e4_i24_o40_c1",
    "r2_k3_s2_e4_i40_o64_se0.25",
    "r2_k3_s1_e6_i64_o80_se0.25",
)


# The same with MBConv throughout: the comparison of the paper's Table 3.
_UNFUSED = (
    "r1_k3_s1_e1_i16_o16_se0.25",
    "r2_k3_s2_e4_i16_o24_se0.25",
    "r2_k3_s2_e4_i24_o40_se0.25",
    *_STAGES[3:],
)


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict()
    config.name = f"cifar10_v2_{variant}" if variant else "cifar10_v2"
    config.model = "effnetv2_s"
    config.reference_model = config.model
    config.model_overrides = ConfigDict(
        {"stages": _UNFUSED if variant == "unfused" else _STAGES, "head_channels": 256}
    )
    config.small_images = True
    config.init_from = config_dict.placeholder(str)
    config.dtype = "float32"
    config.num_epochs = 4.0
    config.min_steps = 0
    config.batch_size = 128
    config.accumulation_steps = 1
    config.remat = False
    config.seed = 0
    config.image_size = 32
    config.drop_rate = 0.1
    config.stochastic_depth_rate = 0.0
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
    config.ema_first_update = 1
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
    config.data.threads = 1
    config.data.backend = "auto"
    config.data.normalization = "effnetv2"

    config.augment = ConfigDict()
    config.augment.crop = "v2_box"
    config.augment.crop_pad = 0
    config.augment.crop_area = (0.4, 1.0)
    config.augment.crop_aspect = (3 / 4, 1.33)
    config.augment.flip_rate = 0.5
    config.augment.interpolation = "bilinear"
    config.augment.antialias = False
    config.augment.scaled_decode = False
    config.augment.repeats = 1
    config.augment.mixing = "effnetv2"
    config.augment.mixup_alpha = 0.1
    config.augment.cutmix_alpha = 0.0
    config.augment.mix_rate = 1.0
    config.augment.cutmix_rate = 0.5
    config.augment.augment_before_mix = True
    config.augment.semantics = "timm"
    config.augment.autoaugment = config_dict.placeholder(str)
    config.augment.randaugment_layers = 1
    config.augment.randaugment_magnitude = 6.0
    config.augment.randaugment_rate = 1.0
    config.augment.randaugment_noise = 0.0
    config.augment.randaugment_increasing = False
    config.augment.erase_rate = 0.0
    config.augment.erase_mode = "const"
    config.augment.erase_count = 1

    config.optim = ConfigDict()
    config.optim.name = "rmsprop"
    config.optim.schedule = "cosine"
    config.optim.lr_per_256 = 0.016
    config.optim.lr_peak = config_dict.placeholder(float)
    config.optim.lr_start = 0.0
    config.optim.lr_end = 0.0
    config.optim.decay_rate = config_dict.placeholder(float)
    config.optim.decay_epochs = config_dict.placeholder(float)
    config.optim.step_epochs = ()
    config.optim.decay_clock = "start"
    config.optim.lr_clock = "step"
    config.optim.warmup_epochs = 0.5
    config.optim.cooldown_epochs = 0.0
    config.optim.momentum = 0.9
    config.optim.nesterov = False
    config.optim.rms_decay = 0.9
    config.optim.rms_eps = 1e-3
    config.optim.adam_b1 = config_dict.placeholder(float)
    config.optim.adam_b2 = config_dict.placeholder(float)
    config.optim.adam_eps = config_dict.placeholder(float)
    config.optim.weight_decay = 1e-5
    config.optim.no_decay = (r"(scale|bias)$",)
    config.optim.agc_clipping = config_dict.placeholder(float)  # None: off
    config.optim.agc_eps = 1e-3
    config.optim.clip_norm = config_dict.placeholder(float)
    config.optim.no_clip = ()
    config.optim.frozen = ()
    config.optim.layer_decay = config_dict.placeholder(float)

    config.progressive = ConfigDict()
    config.progressive.stages = 1 if variant == "fixed" else 4
    config.progressive.order = "increasing"
    config.progressive.random_epochs = config_dict.placeholder(float)
    config.progressive.skip_first_size = False
    config.progressive.image_size = config_dict.placeholder(int)
    config.progressive.randaugment_magnitude = config_dict.placeholder(float)
    config.progressive.mixup_alpha = config_dict.placeholder(float)
    config.progressive.cutmix_alpha = config_dict.placeholder(float)
    config.progressive.drop_rate = config_dict.placeholder(float)

    if variant != "fixed":
        config.progressive.image_size = 16
        config.progressive.randaugment_magnitude = 2.0
        config.progressive.mixup_alpha = 0.0
        config.progressive.drop_rate = 0.0

    config.sam = ConfigDict()
    config.sam.rho = 0.0
    config.sam.batch_fraction = 0.2

    config.eval = ConfigDict()
    config.eval.split = "test"
    config.eval.every_epochs = 4.0
    config.eval.batch_size = 500
    config.eval.image_size = 32
    config.eval.crop = "resize"
    config.eval.crop_pct = config_dict.placeholder(float)  # None: but 32 px
    config.eval.interpolation = "bilinear"
    config.eval.antialias = False
    return config
