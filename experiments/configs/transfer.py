"""Transfer of a trained network to seven data sets, as ResNet strikes back does it.

    python experiments/run.py --config=transfer_cars --config.init_from=RUN_OR_FILE

RSB (arXiv 2110.00476) fine-tunes its ResNet-50s as DeiT does, with values adapted to
each data set that it does not give; the seventh, Food-101, is our guess. ``TABLE`` has
those of DeiT (arXiv 2012.12877) by its author for CIFAR, Cars and iNaturalist; chosen
by us is that Flowers-102 is trained as Cars are and Food-101 as iNaturalist. All else
is as in DeiT's pre-training, without the moving average.

The classifier is new where the number of classes is another one; everything is trained,
at 224 px. Without ``init_from`` the same recipe starts from random weights, to compare
with. Test accuracy of RSB's A1: CIFAR-10 98.3, CIFAR-100 86.9, Flowers-102 97.9; in the
paper A1 transfers best, A2 about as well as PyTorch's weights, A3 worst.

TFDS has all but iNaturalist 2019, which is read as it was released. Data sets of your
own: any of these with ``--config.data.source``, and a batch well below the number of
images (docs/transfer.md). EfficientNetV2's own fine-tuning is ``effnetv2_<v>_ft``.
"""

import dataclasses

from ml_collections import ConfigDict, config_dict


@dataclasses.dataclass(frozen=True)
class Transfer:
    """How one data set is fine-tuned on."""

    source: str
    num_train: int
    num_classes: int
    optimizer: str
    lr_at_768: float  # peak; it goes with the batch, which is DeiT's 768
    weight_decay: float
    epochs: float
    stochastic_depth_rate: float
    erase_rate: float


_SGD = ("sgd", 0.01, 1e-4, 1000.0, 0.0, 0.0)
_ADAMW = ("adamw", 7.5e-5, 0.05, 360.0, 0.1, 0.1)

TABLE = {
    "cifar10": Transfer("tfds:cifar10", 50000, 10, *_SGD),
    "cifar100": Transfer("tfds:cifar100", 50000, 100, *_SGD),
    "flowers102": Transfer("tfds:oxford_flowers102+validation", 2040, 102, *_SGD),
    "cars": Transfer("tfds:cars196", 8144, 196, *_SGD),
    "inaturalist2018": Transfer("tfds:i_naturalist2018", 437513, 8142, *_ADAMW),
    "inaturalist2019": Transfer("inat:inaturalist2019", 265240, 1010, *_ADAMW),
    "food101": Transfer("tfds:food101", 75750, 101, *_ADAMW),
}
VARIANTS = tuple(TABLE)


def get_config(variant: str = "cifar10") -> ConfigDict:
    row = TABLE[variant]
    config = ConfigDict()
    config.name = f"transfer_{variant}"
    config.model = "resnet50"
    config.reference_model = config.model
    config.model_overrides = ConfigDict()
    config.small_images = False
    config.init_from = config_dict.placeholder(str)
    config.dtype = "bfloat16"
    config.num_epochs = row.epochs
    config.min_steps = 0
    config.batch_size = 768
    config.accumulation_steps = 1
    config.remat = False
    config.seed = 0
    config.image_size = 224
    config.drop_rate = 0.0
    config.stochastic_depth_rate = row.stochastic_depth_rate
    config.bn_momentum = 0.9
    config.bn_unbiased = True
    config.label_smoothing = 0.1
    config.loss = "softmax"
    config.bce_target_threshold = config_dict.placeholder(float)
    config.bce_sum_to_one = False
    config.bce_smoothing = "before"
    config.bce_pos_weight = config_dict.placeholder(float)
    config.bce_sum_classes = False
    # Differs: DeiT tracks an average beside the weights, which it reports.
    config.ema_decay = config_dict.placeholder(float)
    config.ema_schedule = "constant"
    config.ema_first_update = 0
    config.log_every_steps = 100
    config.checkpoint_every_steps = 1000
    config.max_nonfinite_steps = 20
    config.watchdog_minutes = config_dict.placeholder(float)

    config.data = ConfigDict()
    config.data.source = row.source
    config.data.data_dir = config_dict.placeholder(str)
    config.data.num_train = row.num_train
    config.data.holdout = 0.0
    config.data.drop_last = True
    config.data.num_classes = config_dict.placeholder(int)  # None: the data's
    config.data.reference_classes = row.num_classes
    config.data.label_sets = config_dict.placeholder(str)
    config.data.class_map = config_dict.placeholder(str)
    config.data.max_damaged = 0.001
    config.data.threads = 16
    config.data.backend = "auto"
    config.data.normalization = "imagenet"

    config.augment = ConfigDict()
    config.augment.crop = "timm_box"
    config.augment.crop_pad = 0
    config.augment.crop_area = (0.08, 1.0)
    config.augment.crop_aspect = (3 / 4, 4 / 3)
    config.augment.flip_rate = 0.5
    config.augment.interpolation = "bicubic"
    config.augment.antialias = True
    config.augment.scaled_decode = False
    config.augment.repeats = 3
    config.augment.mixing = "timm_batch"
    config.augment.mixup_alpha = 0.8
    config.augment.cutmix_alpha = 1.0
    config.augment.mix_rate = 1.0
    config.augment.cutmix_rate = 0.5
    config.augment.augment_before_mix = True
    config.augment.semantics = "timm"
    config.augment.autoaugment = config_dict.placeholder(str)
    config.augment.randaugment_layers = 2  # rand-m9-mstd0.5-inc1
    config.augment.randaugment_magnitude = 9.0
    config.augment.randaugment_rate = 0.5
    config.augment.randaugment_noise = 0.5
    config.augment.randaugment_increasing = True
    config.augment.erase_rate = row.erase_rate
    config.augment.erase_mode = "pixel"
    config.augment.erase_count = 1

    config.optim = ConfigDict()
    config.optim.name = row.optimizer
    config.optim.schedule = "cosine"
    config.optim.lr_per_256 = row.lr_at_768 / 3
    config.optim.lr_peak = config_dict.placeholder(float)
    config.optim.lr_start = 1e-6
    config.optim.lr_end = 1e-5
    config.optim.decay_rate = config_dict.placeholder(float)
    config.optim.decay_epochs = config_dict.placeholder(float)
    config.optim.step_epochs = ()
    config.optim.decay_clock = "start"
    config.optim.lr_clock = "epoch"
    config.optim.warmup_epochs = 5.0
    config.optim.cooldown_epochs = 0.0
    config.optim.momentum = 0.0
    config.optim.nesterov = False
    config.optim.rms_decay = config_dict.placeholder(float)
    config.optim.rms_eps = config_dict.placeholder(float)
    config.optim.adam_b1 = 0.9
    config.optim.adam_b2 = 0.999
    config.optim.adam_eps = 1e-8
    config.optim.weight_decay = row.weight_decay
    config.optim.no_decay = (r"(scale|gain|bias\w*|pos_embed|cls_token)$",)
    config.optim.agc_clipping = config_dict.placeholder(float)
    config.optim.agc_eps = 1e-3
    config.optim.clip_norm = config_dict.placeholder(float)
    config.optim.no_clip = (r"^head/",)
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
    config.eval.every_epochs = 10.0
    config.eval.batch_size = 512
    config.eval.image_size = 224
    config.eval.crop = "short_edge"
    config.eval.crop_pct = 0.875
    config.eval.interpolation = "bicubic"
    config.eval.antialias = True
    if row.optimizer == "sgd":
        config.optim.momentum, config.optim.nesterov = 0.9, True
        config.optim.adam_b1 = config.optim.adam_b2 = config.optim.adam_eps = None
    return config
