"""EfficientNet B0 ... B8 on ImageNet (Tan and Le 2019, arXiv 1905.11946).

    python experiments/run.py --config=effnet_b0

As the original code trains with AutoAugment: batch 2048, 350 epochs (218,949 steps),
RMSProp with TensorFlow 1's semantics, learning rate 0.128 after 5 epochs of warmup,
then times 0.97 every 2.4 epochs counted from the first step; L2 of 1e-5 on kernels,
average 0.9999, smoothing 0.1, stochastic depth 0.2, AutoAugment v0; trained and tested
at the same size. The ablation of EfficientNetV2's Table 3:
``--config=effnet_b4 --config.model=effnet_b4_fused_1_3`` (or ``_1_5``, ``_1_7``).

The released code of V2 trains these at 0.8 times the size. V2's paper trains B7 with
progressive learning and RandAugment (84.7 to 85.0, in 54 hours instead of 139); sizes
alone: ``--config.progressive.stages=4 --config.progressive.image_size=128``.

Expected top-1 with AutoAugment (README of the original code): B0 77.1, B1 79.1, B2
80.1, B3 81.6, B4 82.9, B5 83.6, B6 84.0, B7 84.3. The released B8 was trained with
AdvProp and L2 with noisy students; neither is here, the rest of their recipe is.
"""

from ml_collections import ConfigDict, config_dict

VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2")


def get_config(variant: str = "b0") -> ConfigDict:
    config = ConfigDict()
    config.name = f"effnet_{variant}"
    config.model = f"effnet_{variant}"
    config.reference_model = config.model
    config.model_overrides = ConfigDict()
    config.small_images = False
    config.init_from = config_dict.placeholder(str)
    config.dtype = "bfloat16"
    config.num_epochs = 350.0
    config.min_steps = 0
    config.batch_size = 2048
    config.accumulation_steps = 1
    config.remat = False
    config.seed = 0
    config.image_size = config_dict.placeholder(int)  # None: the variant's
    config.drop_rate = config_dict.placeholder(float)  # None: the variant's
    config.stochastic_depth_rate = 0.2
    config.bn_momentum = config_dict.placeholder(float)  # None: the variant's
    config.bn_unbiased = config_dict.placeholder(bool)  # None: the variant's
    config.label_smoothing = 0.1
    config.loss = "softmax"
    config.bce_target_threshold = config_dict.placeholder(float)
    config.bce_sum_to_one = False
    config.bce_smoothing = "before"
    config.bce_pos_weight = config_dict.placeholder(float)
    config.bce_sum_classes = False
    config.ema_decay = 0.9999
    config.ema_schedule = "ramp"
    config.ema_first_update = 1
    config.log_every_steps = 100
    config.checkpoint_every_steps = 1000
    config.max_nonfinite_steps = 20
    config.watchdog_minutes = config_dict.placeholder(float)

    config.data = ConfigDict()
    config.data.source = "tfds:imagenet2012"
    config.data.data_dir = config_dict.placeholder(str)
    config.data.num_train = 1281167
    config.data.holdout = 0.0
    config.data.drop_last = False
    config.data.num_classes = config_dict.placeholder(int)  # None: the data's
    config.data.reference_classes = 1000
    config.data.label_sets = config_dict.placeholder(str)
    config.data.class_map = config_dict.placeholder(str)
    config.data.max_damaged = 0.001
    config.data.threads = 16
    config.data.backend = "auto"
    config.data.normalization = "imagenet"

    config.augment = ConfigDict()
    config.augment.crop = "tf_box"
    config.augment.crop_pad = 0
    config.augment.crop_area = (0.08, 1.0)
    config.augment.crop_aspect = (3 / 4, 4 / 3)
    config.augment.flip_rate = 0.5
    config.augment.interpolation = "bicubic_tf1"
    config.augment.antialias = False
    config.augment.scaled_decode = False
    config.augment.repeats = 1
    config.augment.mixing = "effnetv2"
    config.augment.mixup_alpha = 0.0
    config.augment.cutmix_alpha = 0.0
    config.augment.mix_rate = 1.0
    config.augment.cutmix_rate = 0.5
    config.augment.augment_before_mix = True
    config.augment.semantics = "tf"
    config.augment.autoaugment = "v0"
    config.augment.randaugment_layers = 0
    config.augment.randaugment_magnitude = config_dict.placeholder(float)
    config.augment.randaugment_rate = 1.0
    config.augment.randaugment_noise = 0.0
    config.augment.randaugment_increasing = False
    config.augment.erase_rate = 0.0
    config.augment.erase_mode = "const"
    config.augment.erase_count = 1

    config.optim = ConfigDict()
    config.optim.name = "rmsprop"
    config.optim.schedule = "exponential"
    config.optim.lr_per_256 = 0.016
    config.optim.lr_peak = config_dict.placeholder(float)
    config.optim.lr_start = 0.0
    config.optim.lr_end = 0.0
    config.optim.decay_rate = 0.97
    config.optim.decay_epochs = 2.4
    config.optim.step_epochs = ()
    config.optim.decay_clock = "start"
    config.optim.lr_clock = "step"
    config.optim.warmup_epochs = 5.0
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
    config.eval.every_epochs = 4.0
    config.eval.batch_size = 512
    config.eval.image_size = config_dict.placeholder(int)  # None: the variant's
    config.eval.crop = "crop_resize"
    config.eval.crop_pct = config_dict.placeholder(float)  # None: but 32 px
    config.eval.interpolation = "bicubic_tf1"
    config.eval.antialias = False
    return config
