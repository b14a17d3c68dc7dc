"""What can be measured: our loaders and those of others, as rows of one table."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nfnets.errors import UserError, did_you_mean

POLICIES = ("plain", "randaugment")
OURS = ("native", "python", "native_kernel")
PEERS = ("decode", "tfdata", "torch_timm", "dali")

# Each crop law with the kernels it is measured with: TensorFlow's default looks at 2 or
# 4 pixels whatever the scale, timm's and torchvision's kernels widen when shrinking.
_BOXES = (
    ("tf_box", "bilinear", False),
    ("tf_box", "bicubic", False),
    ("tf_box", "bicubic", True),
    ("timm_box", "bilinear", False),
    ("timm_box", "bicubic", True),
)


@dataclass(frozen=True)
class Variant:
    """One way to make batches.

    Attributes:
        row: its row of the table; of several variants with one row the best is shown.
        mode: what tells them apart; empty where there is one.
        loader: one of ``OURS`` or ``PEERS``.
        crop: law of the random box; empty where nothing is cropped.
        kernel: of the resize; empty where nothing is resized.
        antialias: whether the kernel widens when shrinking.
        policies: those of ``POLICIES`` that it can do.
        packages: modules that must be installed.
        install: command that installs them.
        single_core: whether it makes sense on one core only.
    """

    row: str
    mode: str
    loader: str
    crop: str
    kernel: str
    antialias: bool
    policies: tuple[str, ...]
    packages: tuple[str, ...]
    install: str
    single_core: bool = False

    @property
    def name(self) -> str:
        """Unique among all variants."""
        return f"{self.row} ({self.mode})" if self.mode else self.row

    @property
    def kernel_class(self) -> str:
        """For the table: results are comparable within a class only."""
        if not self.kernel:
            return "-"
        return f"{self.kernel} AA" if self.antialias else self.kernel


def _ours() -> list[Variant]:
    native = Variant(
        row="",
        mode="",
        loader="native",
        crop="",
        kernel="",
        antialias=False,
        policies=POLICIES,
        packages=("nfnets.data.native._native",),
        install="install g++ and libjpeg-dev, then pip install -e . in the clone",
    )
    python = replace(
        native,
        loader="python",
        packages=("cv2", "simplejpeg"),
        install="pip install 'nfnets-flax[train]'",
    )
    made = [
        replace(
            base,
            row=f"ours {base.loader} {crop} {kernel}{' AA' if antialias else ''}",
            crop=crop,
            kernel=kernel,
            antialias=antialias,
        )
        for base in (native, python)
        for crop, kernel, antialias in _BOXES
    ]
    bare = replace(made[0], row="ours native bare kernel", loader="native_kernel")
    return [*made, replace(bare, policies=("plain",))]


def _decode_and_tensorflow() -> list[Variant]:
    decode = Variant(
        row="full decode",
        mode="",
        loader="decode",
        crop="",
        kernel="",
        antialias=False,
        policies=POLICIES,
        packages=("simplejpeg",),
        install="pip install 'nfnets-flax[train]'",
    )
    tensorflow = replace(
        decode,
        loader="tfdata",
        crop="tf_box",
        packages=("tensorflow",),
        install="pip install 'nfnets-flax[bench]'",
    )
    tfdata = [
        replace(tensorflow, row=f"tf.data {kernel}", mode=mode, kernel=kernel)
        for kernel in ("bilinear", "bicubic")
        for mode in ("private pool", "AUTOTUNE")
    ]
    return [decode, *tfdata]


def _torch_and_dali() -> list[Variant]:
    torch = Variant(
        row="torch + timm",
        mode="workers",
        loader="torch_timm",
        crop="timm_box",
        kernel="bicubic",
        antialias=True,
        policies=POLICIES,
        packages=("torch", "torchvision", "timm"),
        install="pip install 'nfnets-flax[bench]'",
    )
    dali = replace(
        torch,
        row="DALI CPU",
        mode="",
        loader="dali",
        kernel="triangular",
        policies=("plain",),
        packages=("nvidia.dali",),
        install="pip install nvidia-dali-cuda120",
    )
    alone = replace(torch, mode="0 workers", single_core=True)
    return [torch, alone, dali]


VARIANTS = {
    variant.name: variant
    for variant in (*_ours(), *_decode_and_tensorflow(), *_torch_and_dali())
}


def choose(loaders: Iterable[str], policy: str, cores: int) -> list[Variant]:
    """The variants of these loaders that can do the policy on so many cores."""
    loaders = list(loaders)
    for loader in loaders:
        if loader not in (*OURS, *PEERS):
            raise UserError(
                f"unknown loader {loader!r}; {did_you_mean(loader, (*OURS, *PEERS))}"
            )
    return [
        variant
        for variant in VARIANTS.values()
        if variant.loader in loaders
        and policy in variant.policies
        and not (variant.single_core and cores > 1)
    ]


def missing_packages(variant: Variant) -> list[str]:
    """The modules it needs that are not installed; nothing is imported."""
    return [name for name in variant.packages if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent package is missing too
        return False
