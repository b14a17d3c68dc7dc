"""ResNet-RS on ImageNet (Bello et al. 2021, arXiv 2103.07579), all eleven networks.

    python experiments/run.py --config=resnet_rs_152_i224

``resnet_rs_<depth>_i<size>`` for the eleven pairs of ``TABLE``; ``resnet_rs_50`` is the
smallest size of a depth. SGD with Nesterov momentum, batch 4096, 350 epochs, label
smoothing, RandAugment beyond its usual range, dropout, a small weight decay on all but
BatchNorm (biases of SE and classifier included); BatchNorm keeps the last batch's
statistics and the moving average smooths them with the weights.

The learning rate is the paper's cosine to 0 after 5 epochs of warmup (from memory of
the paper); ``..._code`` has the schedule of the released configs: 19 epochs of warmup,
then a tenth at 116, 233 and 311 epochs.

Expected top-1 (released tables), in the order of ``TABLE``: 78.8, 80.3, 81.2, 82.0,
82.2, 83.0, 83.4, 83.8, 84.0, 84.2, 84.4.
"""

import dataclasses

from ml_collections import ConfigDict, config_dict


@dataclasses.dataclass(frozen=True)
class Network:
    """One of the eleven: what the released configs do not share."""

    depth: int
    image_size: int  # pixels
    randaugment_magnitude: float
    drop_rate: float
    stochastic_depth_rate: float


TABLE = (
    Network(50, 160, 10.0, 0.25, 0.0),
    Network(101, 160, 10.0, 0.25, 0.0),
    Network(101, 192, 15.0, 0.25, 0.0),
    Network(152, 192, 15.0, 0.25, 0.0),
    Network(152, 224, 15.0, 0.25, 0.0),
    Network(152, 256, 15.0, 0.25, 0.0),
    Network(200, 256, 15.0, 0.25, 0.1),
    Network(270, 256, 15.0, 0.25, 0.1),
    Network(350, 256, 15.0, 0.25, 0.1),
    Network(350, 320, 15.0, 0.4, 0.1),
    Network(420, 320, 15.0, 0.4, 0.1),
)
# The first row of a depth is its smallest size, and so its short name.
_ROWS = {str(row.depth): row for row in reversed(TABLE)}
_ROWS |= {f"{row.depth}_i{row.image_size}": row for row in TABLE}
VARIANTS = tuple(f"{name}{code}" for name in _ROWS for code in ("", "_code"))


def get_config(variant: str = "50") -> ConfigDict:
    row = _ROWS[variant.removesuffix("_code")]
    config = ConfigDict()
    config.name = f"resnet_rs_{variant}"
    config.model = f"resnet_rs_{row.depth}"
    config.reference_model = config.model
    config.model_overrides = ConfigDict()
    config.small_images = False
    config.init_from = config_dict.placeholder(str)
    config.dtype = "bfloat16"
    config.num_epochs = 350.001  # 109,475 steps as released; 350 make one less
    config.min_steps = 0
    config.batch_size = 4096
    config.accumulation_steps = 1
    config.remat = False
    config.seed = 0
    config.image_size = row.image_size
    config.drop_rate = row.drop_rate
    config.stochastic_depth_rate = row.stochastic_depth_rate
    config.bn_momentum = 0.0
    config.bn_unbiased = True
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
    config.augment.mixing = "nfnet"
    config.augment.mixup_alpha = 0.0
    config.augment.cutmix_alpha = 0.0
    config.augment.mix_rate = 1.0
    config.augment.cutmix_rate = 0.5
    config.augment.augment_before_mix = True
    config.augment.semantics = "tf"
    config.augment.autoaugment = config_dict.placeholder(str)
    config.augment.randaugment_layers = 2
    config.augment.randaugment_magnitude = row.randaugment_magnitude
    config.augment.randaugment_rate = 1.0
    config.augment.randaugment_noise = 0.0
    config.augment.randaugment_increasing = False
    config.augment.erase_rate = 0.0
    config.augment.erase_mode = "const"
    config.augment.erase_count = 1

    config.optim = ConfigDict()
    config.optim.name = "sgd"
    config.optim.schedule = "cosine"
    config.optim.lr_per_256 = 0.1
    config.optim.lr_peak = config_dict.placeholder(float)
    config.optim.lr_start = 0.0
    config.optim.lr_end = 0.0
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
    config.optim.weight_decay = 4e-5
    # BatchNorm's parameters, and what takes their place in other networks.
    config.optim.no_decay = (r"(bn|norm)\d*/bias$|scale$|gain$",)
    config.optim.agc_clipping = config_dict.placeholder(float)
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
    config.eval.every_epochs = 4.0
    config.eval.batch_size = 200
    config.eval.image_size = row.image_size
    config.eval.crop = "crop_resize"
    config.eval.crop_pct = _crop_pct(row.image_size)
    config.eval.interpolation = "bicubic_tf1"
    config.eval.antialias = False
    if variant.endswith("_code"):
        _released_schedule(config)
    return config


def _crop_pct(size: int) -> float:
    """The share of the short side that is seen: 32 of 224 pixels less, rounded."""
    return size / (size + round(size * (1 / 0.875 - 1)))


def _released_schedule(config: ConfigDict) -> None:
    # E = 350.88 epochs by the code's count; floors of E times 5, 30, 60 and 80 / 90.
    config.optim.schedule = "step"
    config.optim.decay_rate = 0.1
    config.optim.step_epochs = (116.0, 233.0, 311.0)
    config.optim.decay_clock = "start"
    config.optim.warmup_epochs = 19.0
