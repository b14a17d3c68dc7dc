"""What several tests need: recipes by config name, a tiny network, its data."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
import pytest
import xla_flags
from flax import traverse_util

from nfnets.data import native
from nfnets.data.augment_config import AugmentConfig
from nfnets.data.pipeline import make_train_iter
from nfnets.data.sources import Source
from nfnets.data.train_iterator import TrainIterator
from nfnets.flops import abstract_variables
from nfnets.training.config_files import load_config
from nfnets.training.recipe import Recipe

# What rows of metrics.jsonl say that no two runs have alike.
TIMED = ("train/images_per_second", "train/input_wait")
ROOT = Path(__file__).resolve().parents[1]
CONFIG_DIR = ROOT / "experiments" / "configs"

# A network with every part of an NFNet, small enough to compile in seconds.
TINY = {
    "depths": (1, 1),
    "widths": (16, 32),
    "strides": (1, 2),
    "stem_channels": (8, 8, 8),
    "stem_strides": (1, 1, 1, 1),
    "group_size": 8,
}

_TINY_RESNET = {
    "depths": (2, 1),
    "widths": (16, 32),
    "strides": (1, 2),
    "stem_kernel": 3,
    "stem_stride": 1,
}
_TINY_BASELINE = _TINY_RESNET | {"stem_channels": 8, "stem_pool": False}

# One network of each family, and of each kind of the baselines, for images of 8 pixels.
TINY_FAMILIES: dict[str, dict[str, Any]] = {
    "nfnet_f0": TINY,
    "nf_resnet50": _TINY_BASELINE,
    "nf_regnet_b0": {
        "depths": (2, 1),
        "widths": (16, 32),
        "strides": (1, 2),
        "stem_stride": 1,
    },
    **dict.fromkeys(
        (
            "dm_resnet50",
            "dm_resnet50_postact",
            "skipinit_resnet50",
            "fixup_resnet50",
        ),
        _TINY_BASELINE,
    ),
    "effnetv2_s": {
        "stages": ("r2_k3_s1_e1_i8_o8_c1", "r1_k3_s2_e2_i8_o16_se0.25"),
        "head_channels": 24,
    },
    "resnet_rs_50": _TINY_RESNET | {"stem_channels": (8, 8), "stem_pool": None},
    "regnety_4gf": {
        **{"w0": 16, "wa": 8.0, "wm": 2.0, "depth": 3, "group_width": 8},
        **{"stem_channels": 8, "stem_stride": 1},
    },
    "deit_ti": {"width": 16, "heads": 2, "depth": 2, "patch": 4, "train_size": 8},
}


def plain_augment(**changes: Any) -> AugmentConfig:
    """The whole image, nothing random, unless ``changes`` say otherwise."""
    plain = {
        "crop": "resize",
        "crop_pad": 0,
        "crop_area": (0.08, 1.0),
        "crop_aspect": (3 / 4, 4 / 3),
        "flip_rate": 0.0,
        "interpolation": "bicubic",
        "antialias": False,
        "scaled_decode": False,
        "repeats": 1,
        "mixing": "nfnet",
        "mixup_alpha": 0.0,
        "cutmix_alpha": 0.0,
        "mix_rate": 1.0,
        "cutmix_rate": 0.5,
        "augment_before_mix": True,
        "semantics": "tf",
        "autoaugment": None,
        "randaugment_layers": 0,
        "randaugment_magnitude": None,
        "randaugment_rate": 1.0,
        "randaugment_noise": 0.0,
        "randaugment_increasing": False,
        "erase_rate": 0.0,
        "erase_mode": "const",
        "erase_count": 1,
    }
    return AugmentConfig(**(plain | changes))


def native_is_built() -> bool:
    """Whether the C++ backend can be tested; $NFNETS_REQUIRE_NATIVE insists on it."""
    try:
        native.load()
    except ImportError:
        if os.environ.get("NFNETS_REQUIRE_NATIVE"):
            raise
        return False
    return True


needs_native = pytest.mark.skipif(
    not native_is_built(), reason="the native backend was not built (no compiler?)"
)
BACKENDS = ["python", pytest.param("native", marks=needs_native)]


class OneStage(NamedTuple):
    """What the loader reads of a recipe's stage."""

    steps: int
    image_size: int
    augment: AugmentConfig


def tiny_variables(model: nn.Module, channels: int = 3) -> Any:
    """Random variables in which nothing is 0, by name and without a compile."""
    shapes = traverse_util.flatten_dict(abstract_variables(model, 8, channels))
    generator = np.random.default_rng(0)
    flat = {}
    for path, leaf in shapes.items():
        noise = generator.normal(scale=0.1, size=leaf.shape).astype(np.float32)
        is_scale = path[-1] in ("scale", "gain", "var", "skip_gain")
        flat[path] = np.asarray(1 + abs(noise) if is_scale else noise)
    return traverse_util.unflatten_dict(flat)


def train_iter(source: Source, **changes: Any) -> TrainIterator:
    """Batches of one stage: ``augment``, ``image_size``, ``num_steps``, and options."""
    options: dict[str, Any] = dict(
        batch_size=6,
        num_devices=2,
        seed=0,
        start_step=0,
        max_damaged=0.001,
        threads=1,
        log=lambda line: None,
        augment=plain_augment(),
        image_size=4,
        num_steps=10,
    )
    options |= changes
    stage = OneStage(
        options.pop("num_steps"), options.pop("image_size"), options.pop("augment")
    )
    return make_train_iter(source, stages=[stage], **options)


def recipe_of(name: str, **changes: Any) -> Recipe:
    """The recipe of a named config with changed fields; "optim.momentum" as optim__."""
    recipe = Recipe.from_config(load_config(name, CONFIG_DIR))
    return with_changes(recipe, **changes)


def with_changes(recipe: Recipe, **changes: Any) -> Recipe:
    """``with_changes(recipe, seed=1, optim__momentum=0.0)``."""
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        if inner:
            value = dataclasses.replace(getattr(recipe, outer), **{inner: value})
        recipe = dataclasses.replace(recipe, **{outer: value})
    return recipe


def tiny_recipe(**changes: Any) -> Recipe:
    """The digits recipe on the tiny network, without randomness in the network."""
    plain = {
        "model_overrides": TINY,
        "drop_rate": 0.0,
        "stochastic_depth_rate": 0.0,
        "batch_size": 24,
        "log_every_steps": 2,
    }
    return recipe_of("digits", **(plain | changes))


def run_script(script: str, *arguments: str, cache: Path) -> tuple[int, str, str]:
    """Runs a program of ``experiments/`` on one device.

    Args:
      script: its file name.
      arguments: of its command line.
      cache: folder for what is compiled.

    Returns:
      Exit status, standard output, standard error.
    """
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / script, *arguments],
        env=os.environ
        | {
            "XLA_FLAGS": xla_flags.devices(1),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def sample_image(name: str) -> bytes:
    """One JPEG of the ImageNet sample images; skips the test where they are absent."""
    path = ROOT.parent / "shared" / "data" / "imagenet_sample_300.tar"
    if not path.exists():
        pytest.skip(f"needs {name} of the ImageNet sample images (shared/data)")
    with tarfile.open(path) as archive:
        member = next(m for m in archive if m.name.endswith(name))
        file = archive.extractfile(member)
        assert file is not None
        return file.read()
