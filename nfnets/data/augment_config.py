"""What a recipe says of the images: the typed settings, and what they may be."""

from __future__ import annotations

from dataclasses import dataclass

from nfnets.errors import UserError

TRAIN_CROPS = ("tf_box", "v2_box", "timm_box", "pad", "resize")
EVAL_CROPS = ("resize", "resize_crop", "crop_resize", "short_edge", "v2")
KERNELS = ("bilinear", "bicubic", "bicubic_tf1")
MIXINGS = ("nfnet", "effnetv2", "timm_batch", "timm_pair", "timm_elem")
ERASE_MODES = ("const", "rand", "pixel", "cutout")
_RATES = ("flip_rate", "mix_rate", "cutmix_rate", "randaugment_rate", "erase_rate")
# Settings that Google's codes do not have, and their values without an effect.
_TIMM_ONLY = {
    "randaugment_rate": 1.0,
    "randaugment_noise": 0.0,
    "randaugment_increasing": False,
}
_NOT_NEGATIVE = (
    "crop_pad",
    "mixup_alpha",
    "cutmix_alpha",
    "randaugment_layers",
    "randaugment_noise",
)


@dataclass(frozen=True)
class AugmentConfig:
    """Training augmentation, as stated by a recipe.

    Attributes:
        crop: a random box, resized, by the law of ``tf_box`` (TensorFlow's, as in the
            codes of NFNet, ResNet-RS and EfficientNet V1), ``v2_box`` (as in that of
            EfficientNetV2) or ``timm_box`` (as in timm and torchvision); ``resize``
            (the whole image) or ``pad`` (that, then zero padding and a random window,
            as usual for CIFAR).
        crop_pad: pixels added on each side by ``pad``.
        crop_area: smallest and largest share of the image in a random box.
        crop_aspect: smallest and largest width / height there.
        flip_rate: probability of a left-right flip.
        interpolation: ``bilinear``, ``bicubic``, ``bicubic_tf1`` (TensorFlow 1's, of
            ResNet-RS and EfficientNet V1) or ``random`` (bilinear or bicubic, drawn per
            image, as in timm).
        antialias: widen the kernel when shrinking; the papers of Google do not.
        scaled_decode: whether a JPEG may be decoded at 1/2 or 1/4 of its size where
            the crop is still larger than the result; faster, and not the same pixels.
        repeats: copies of each image in a batch, differently augmented (repeated
            augmentation, arXiv 1901.09335); 1 turns it off.
        mixing: whose mixup and cutmix, one of ``MIXINGS``; timm's mix a batch, pair or
            element (an image) at a time.
        mixup_alpha: Beta(alpha, alpha) of mixup; 0 turns it off.
        cutmix_alpha: Beta(alpha, alpha) of cutmix's area; 0 turns it off.
        mix_rate: probability that timm's forms mix a batch, pair or element; 1 for the
            others, which always mix.
        cutmix_rate: probability that timm's forms cutmix rather than mixup, where both
            are on; 0.5 for the others, which halve the batch then.
        augment_before_mix: whether RandAugment or AutoAugment sees the images before
            they are mixed; the official NFNet recipe augments the mixed image, which
            only ``nfnet`` mixing can.
        semantics: whose operations: ``tf``, the official code of Google's papers, or
            ``timm``.
        autoaugment: a policy in place of RandAugment, ``None`` for none: ``v0``; with
            timm's semantics also ``v0r``, ``original``, ``originalr``, ``3a``, and any
            string of timm's, such as ``rand-m7-mstd0.5-inc1``, which is replaced by
            the ``randaugment_*`` that it stands for (``timm_policy.parse``).
        randaugment_layers: operations per image; 0 turns RandAugment off.
        randaugment_magnitude: M out of 10; ``None`` is the model variant's, which
            is filled in before the settings get here.
        randaugment_rate: probability that a drawn operation is applied; 1 in Google's
            codes, 0.5 in timm.
        randaugment_noise: standard deviation of the magnitude (timm's mstd).
        randaugment_increasing: timm's set of operations that get stronger with the
            magnitude (inc1).
        erase_rate: probability of random erasing (arXiv 1708.04896) per image.
        erase_mode: what is put there: ``const`` (the mean colour), ``rand`` (one
            normal colour per box) or ``pixel`` (normal noise); ``cutout`` instead is
            one square of uniform noise in [0, 1), half as wide as the image, around
            any pixel (arXiv 1708.04552, as EfficientNetV2's fine-tuning does it).
        erase_count: most boxes per erased image; their number is uniform in 1 to it,
            and the erased area is divided among them. 1 for ``cutout``.
    """

    crop: str
    crop_pad: int
    crop_area: tuple[float, float]
    crop_aspect: tuple[float, float]
    flip_rate: float
    interpolation: str
    antialias: bool
    scaled_decode: bool
    repeats: int
    mixing: str
    mixup_alpha: float
    cutmix_alpha: float
    mix_rate: float
    cutmix_rate: float
    augment_before_mix: bool
    semantics: str
    autoaugment: str | None
    randaugment_layers: int
    randaugment_magnitude: float | None
    randaugment_rate: float
    randaugment_noise: float
    randaugment_increasing: bool
    erase_rate: float
    erase_mode: str
    erase_count: int


@dataclass(frozen=True)
class EvalCrop:
    """How an evaluation image becomes square.

    Attributes:
        crop: ``resize`` (whole image to S x S), ``resize_crop`` (whole image to U x U,
            whatever its aspect ratio, and the centre of that; NFNet's
            ``resize_crop_32``), ``crop_resize`` (centre square of S / U of the short
            edge, resized; NFNet during training, ResNet-RS, EfficientNet V1),
            ``short_edge`` (short edge to U, then the centre; timm) or ``v2``
            (EfficientNetV2: centre square below 320 pixels, else the whole image).
        interpolation: ``bilinear``, ``bicubic`` or ``bicubic_tf1``.
        antialias: widen the kernel when shrinking.
        crop_pct: S / U, in (0, 1]; ``None`` makes U = S + 32 pixels, as for NFNets
            (``short_edge``: U = S). ``resize`` and ``v2`` do not read it.
    """

    crop: str
    interpolation: str
    antialias: bool
    crop_pct: float | None = None


def check_augment(config: AugmentConfig) -> None:
    """Refuses settings that no image could satisfy.

    Raises:
        UserError: an unknown name, an empty or impossible range, RandAugment without
            a magnitude, RandAugment and AutoAugment together, or what the stated form
            of mixing cannot do.
    """
    _check_name("crop", config.crop, TRAIN_CROPS)
    _check_name("semantics", config.semantics, ("tf", "timm"))
    _check_name("interpolation", config.interpolation, (*KERNELS, "random"))
    _check_name("mixing", config.mixing, MIXINGS)
    _check_name("erase_mode", config.erase_mode, ERASE_MODES)
    _check_crop(config)
    _check_mixing(config)
    for field in _RATES:
        if not 0 <= getattr(config, field) <= 1:
            raise UserError(f"{field} is {getattr(config, field)}; expected 0 to 1")
    for field in _NOT_NEGATIVE:
        if getattr(config, field) < 0:
            raise UserError(f"{field} is {getattr(config, field)}; expected 0 or more")
    for field in ("repeats", "erase_count"):
        if getattr(config, field) < 1:
            raise UserError(f"{field} is {getattr(config, field)}; expected 1 or more")
    if config.erase_mode == "cutout" and config.erase_count != 1:
        raise UserError(
            f"erase_count is {config.erase_count}, but erase_mode cutout has one box: "
            "set it to 1, or erase_mode to pixel"
        )
    check_policy(config)
    magnitude = config.randaugment_magnitude
    if config.randaugment_layers > 0 and (magnitude is None or magnitude < 0):
        raise UserError(
            f"randaugment_magnitude is {magnitude} with {config.randaugment_layers} "
            "randaugment_layers; expected 0 or more (out of 10, larger is allowed)"
        )


def check_policy(config: AugmentConfig) -> None:
    """Refuses what the semantics do not have, and two policies at once."""
    if config.autoaugment is not None and config.randaugment_layers > 0:
        raise UserError(
            f"autoaugment is {config.autoaugment} together with "
            f"{config.randaugment_layers} randaugment_layers; it takes RandAugment's "
            "place: set randaugment_layers to 0 or autoaugment to None"
        )
    if config.semantics == "timm":
        if has_policy(config) and config.interpolation == "bicubic_tf1":
            raise UserError(
                "semantics is timm, whose operations have no kernel bicubic_tf1; set "
                "interpolation to bilinear, bicubic or random"
            )
        return
    if config.autoaugment not in (None, "v0"):
        raise UserError(
            f"autoaugment is {config.autoaugment!r}; the semantics tf have v0 only, "
            "others are timm's: set semantics to timm"
        )
    for field, off in _TIMM_ONLY.items():
        if getattr(config, field) != off:
            raise UserError(
                f"{field} is {getattr(config, field)}, which only the semantics timm "
                f"have; set it to {off} or semantics to timm"
            )


def _check_crop(config: AugmentConfig) -> None:
    if config.interpolation == "random" and not config.antialias:
        raise UserError("interpolation is random, which needs antialias to be True")
    if config.interpolation == "bicubic_tf1" and config.antialias:
        raise UserError("interpolation is bicubic_tf1, which has no antialias")
    if config.scaled_decode and not config.antialias:
        raise UserError(
            "scaled_decode is True without antialias, where it would change the pixels "
            "a lot; set antialias to True or scaled_decode to False"
        )
    low, high = config.crop_area
    if not 0 < low <= high <= 1:
        raise UserError(
            f"crop_area is {config.crop_area}; expected 0 < low <= high <= 1"
        )
    low, high = config.crop_aspect
    if not 0 < low <= high:
        raise UserError(
            f"crop_aspect is {config.crop_aspect}; expected 0 < low <= high"
        )


def _check_mixing(config: AugmentConfig) -> None:
    if config.mixing != "nfnet" and not config.augment_before_mix:
        raise UserError(
            f"augment_before_mix is False, but mixing {config.mixing} mixes augmented "
            "images: set it to True"
        )
    if config.mixing.startswith("timm"):
        return
    if config.mix_rate != 1:
        raise UserError(
            f"mix_rate is {config.mix_rate}, but mixing {config.mixing} always mixes: "
            "set it to 1, or the alphas to 0"
        )
    if config.cutmix_rate != 0.5:
        raise UserError(
            f"cutmix_rate is {config.cutmix_rate}, but mixing {config.mixing} halves "
            "the batch where mixup and cutmix are on: set it to 0.5"
        )


def check_eval_crop(crop: EvalCrop) -> None:
    """Refuses unknown names and an impossible ``crop_pct`` with a UserError."""
    _check_name("evaluation crop", crop.crop, EVAL_CROPS)
    _check_name("interpolation", crop.interpolation, KERNELS)
    if crop.crop_pct is not None and not 0 < crop.crop_pct <= 1:
        raise UserError(f"crop_pct is {crop.crop_pct}; expected above 0, at most 1")


def _check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UserError(f"{what} is {name!r}; expected one of {', '.join(known)}")


def has_policy(config: AugmentConfig) -> bool:
    """Whether RandAugment or AutoAugment is on."""
    return config.autoaugment is not None or config.randaugment_layers > 0
