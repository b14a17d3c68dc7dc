"""Packaging metadata, and nothing else; tool settings live in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

TRAIN = [
    "ml_collections>=1.0",
    "absl-py>=2.0",
    "tensorflow-datasets>=4.9.7",
    # array_record has wheels for Linux and macOS only.
    "array_record>=0.5; platform_system != 'Windows'",
    "importlib_resources>=6.0",  # imported by tensorflow-datasets, not declared there
    "orbax-checkpoint>=0.11",
    "etils[epath]>=1.6",  # paths, local or gs://
    "pillow>=10.1",
    "opencv-python-headless>=4.9",
    "simplejpeg>=1.7",
    "scikit-learn>=1.4",
    "tqdm>=4.66",
    "matplotlib>=3.8",
    "tensorboardX>=2.6.2",
    "safetensors>=0.4",
]
DEV = [
    "pytest>=8.0",
    "pytest-xdist>=3.5",
    "fsspec>=2024.2",
    "datasets>=4.0",
    "h5py>=3.10",
    "flatbuffers>=24.3",
    "ruff>=0.17,<0.18",
    "mypy>=2.4,<3",
    "build>=1.0",
]

NATIVE = "nfnets/data/native"


class OptionalBuild(build_ext):
    """Builds the native input backend, or says in one line why there is none."""

    def build_extension(self, ext: Extension) -> None:
        """Builds it; any failure leaves a package that works without."""
        try:
            super().build_extension(ext)
        except Exception as error:  # no compiler, no headers, an old libjpeg, ...
            reason = " ".join(str(error).split())
            print(
                "nfnets-flax: the native input backend was not built (it needs a C++ "
                "compiler and the headers of libjpeg-turbo, in Debian g++ and "
                f"libjpeg-dev); the wheels-only one is used: {reason}",
                file=sys.stderr,
            )


setup(
    name="nfnets-flax",
    version="0.1.0",
    description="NFNets, EfficientNetV2, ResNet strikes back and ResNet-RS in JAX/Flax",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=[
        "effnetv2",
        "nfnets",
        "nfnets.benchmark",
        "nfnets.data",
        "nfnets.data.native",
        "nfnets.export",
        "nfnets.step_benchmark",
        "nfnets.sweep",
        "nfnets.training",
        "nfnets.weights",
        "resnet_rs",
    ],
    package_data={"nfnets": ["py.typed"], "nfnets.data": ["imagenet_classes.txt"]},
    ext_modules=[
        Extension(
            f"{NATIVE.replace('/', '.')}._native",
            sources=sorted(map(str, Path(NATIVE).glob("*.cc"))),
            depends=sorted(map(str, Path(NATIVE).glob("*.h"))),
            libraries=["jpeg"],
            extra_compile_args=[
                "-O3",
                "-std=c++17",
                # Contracted multiply-adds would round differently on some processors.
                "-ffp-contract=off",
                # Python's own flag keeps loops from being vectorised.
                "-fno-wrapv",
                "-g0",
                "-Wno-psabi",  # vectors are passed between inlined functions only
            ],
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": OptionalBuild},
    install_requires=[
        "jax>=0.8",
        "flax>=0.10.4",
        "optax>=0.2.6",
        "chex>=0.1.88",
        "numpy>=1.26",
    ],
    extras_require={
        "train": TRAIN,
        # Only experiments/prepare.py needs it; the tests build small data sets.
        "tf": [
            "tensorflow-cpu>=2.16; platform_system != 'Darwin'",
            "tensorflow>=2.16; platform_system == 'Darwin'",
        ],
        # What experiments/benchmark.py compares with; DALI is installed by hand, its
        # package is named after a CUDA version.
        "bench": [
            "tensorflow-cpu>=2.16; platform_system != 'Darwin'",
            "torch>=2.4",
            "torchvision>=0.19",
            "timm>=1.0.20",
        ],
        "gcs": ["gcsfs>=2024.2"],
        "hf": ["datasets>=4.0"],
        "keras": ["h5py>=3.10"],
        "export": ["flatbuffers>=24.3"],
        "docs": ["pdoc>=16.0"],  # docs/api.md
        "wandb": ["wandb>=0.31"],
        # Apart from export: the converter brings a dozen packages of its own.
        "onnx": ["jax2onnx>=0.17", "onnxruntime>=1.20"],
        "dev": DEV,
        "gpu": ["jax[cuda12]>=0.8"],
        "tpu": ["jax[tpu]>=0.8"],
    },
)
