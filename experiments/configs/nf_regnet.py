"""NF-RegNet-B0 ... B5 on ImageNet (Brock, De, Smith 2021, arXiv 2101.08692).

    python experiments/run.py --config=nf_regnet_b0

As the official code trains them: SGD with Nesterov momentum 0.9 and no clipping, batch
1024, 360 epochs, learning rate 0.4 after a warmup of 5, cosine to 0.001; mixup and
cutmix. Image sizes, dropout and weight decay are the variant's (the official code has
no weight decay for B6 to B8, so they have no config).
"""

from ml_collections import ConfigDict, config_dict

VARIANTS = tuple(f"b{i}" for i in range(6))


def get_config(variant: str = "b0") -> ConfigDict:
    config = ConfigDict()
    config.name = f"nf_regnet_{variant}"
    config.model = config.name
    config.reference_model = config.model
    config.model_overrides = ConfigDict()
    config.small_images = False
    config.init_from = config_dict.placeholder(str)
    config.dtype = "float32"
    config.num_epochs = 360.0
    config.min_steps = 0
    config.batch_size = 1024
    config.accumulation_steps = 1
    config.remat = False
    config.seed = 0
    config.image_size = config_dict.placeholder(int)  # None: the variant's
    config.drop_rate = config_dict.placeholder(float)  # None: the variant's
    config.stochastic_depth_rate = 0.1
    config.bn_momentum = config_dict.placeholder(float)  # None: the variant's
    config.bn_unbiased = config_dict.placeholder(bool)  # None: the variant's
    config.label_smoothing = 0.1
    config.loss = "softmax"
    config.bce_target_threshold = config_dict.placeholder(float)
    config.bce_sum_to_one = False
    config.bce_smoothing = "before"
    config.bce_pos_weight = config_dict.placeholder(float)
    config.bce_sum_classes = False
    config.ema_decay = 0.99999
    config.ema_schedule = "ramp"
    config.ema_first_update = 0
    config.log_every_steps = 100
    config.checkpoint_every_steps = 5000
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
    config.augment.interpolation = "bicubic"
    config.augment.antialias = False
    config.augment.scaled_decode = False
    config.augment.repeats = 1
    config.augment.mixing = "nfnet"
    config.augment.mixup_alpha = 0.2
    config.augment.cutmix_alpha = 1.0
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
    config.optim.lr_per_256 = config_dict.placeholder(float)
    config.optim.lr_peak = 0.4
    config.optim.lr_start = 0.0
    config.optim.lr_end = 0.001
    config.optim.decay_rate = config_dict.placeholder(float)
    config.optim.decay_epochs = config_dict.placeholder(float)
    config.optim.step_epochs = ()
    config.optim.decay_clock = "after_warmup"
    config.optim.lr_clock = "step"
    config.optim.warmup_epochs = 5.0
    config.optim.cooldown_epochs = 0.0
    config.optim.momentum = 0.9
    config.optim.nesterov = True
    config.optim.rms_decay = config_dict.placeholder(float)
    config.optim.rms_eps = config_dict.placeholder(float)
    config.optim.adam_b1 = config_dict.placeholder(float)
    config.optim.adam_b2 = config_dict.placeholder(float)
    config.optim.adam_eps = config_dict.placeholder(float)
    config.optim.weight_decay = config_dict.placeholder(float)  # None: the variant's
    config.optim.no_decay = (r"(scale|gain|bias\w*)$",)
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
    config.eval.interpolation = "bicubic"
    config.eval.antialias = False
    return config
