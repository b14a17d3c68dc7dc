"""The C++ backend against the Python one, which is tested against the papers' codes."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, needs_native, plain_augment, train_iter
from PIL import Image

from nfnets.data import native
from nfnets.data.augment import apply_operations
from nfnets.data.augment_config import AugmentConfig
from nfnets.data.autoaugment import draw_autoaugment
from nfnets.data.decode import decode
from nfnets.data.native.jobs import ENCODE, make_jobs
from nfnets.data.operation import Operation
from nfnets.data.plan import Crop
from nfnets.data.randaugment import draw_randaugment
from nfnets.data.sources import Source
from nfnets.data.timm_policy import draw_randaugment as draw_timm
from nfnets.data.train_slots import Picture, SlotPlan

pytestmark = needs_native
REAL = ROOT.parent / "shared" / "data" / "imagenet_sample_300.tar"


def picture(number: int, height: int, width: int) -> Image.Image:
    """Smooth colours with noise, so that every decoder step matters."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (9 + 5 * c) + y / (17 - 4 * c)) * 90 + 128 for c in range(3)]
    pixels = np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def made_up() -> list[bytes]:
    """Every kind of JPEG that data sets hold, and files that are none."""
    files = []
    for number, (height, width) in enumerate(
        [(75, 100), (131, 90), (64, 64), (33, 257)]
    ):
        image = picture(number, height, width)
        for subsampling in (0, 1, 2):
            files.append(saved(image, "JPEG", quality=90, subsampling=subsampling))
        files.append(saved(image, "JPEG", quality=60, progressive=True))
        files.append(saved(image, "JPEG", quality=95, optimize=True, subsampling=2))
        files.append(saved(image.convert("L"), "JPEG"))
        files.append(saved(image, "JPEG", restart_marker_blocks=3, subsampling=2))
        files.append(saved(image.convert("CMYK"), "JPEG"))
        files.append(saved(image, "PNG"))
    files.append(saved(picture(9, 1, 1), "JPEG"))
    files.append(saved(picture(9, 400, 300), "JPEG", subsampling=2))
    return files


def photographs() -> list[bytes]:
    """Some of the ImageNet sample images, or as many made-up ones of their size."""
    if not REAL.exists():
        pictures = [picture(number, 375, 500) for number in range(50)]
        return [saved(image, "JPEG", subsampling=2) for image in pictures]
    with tarfile.open(REAL) as archive:
        members = [member for member in archive if member.isfile()][::6]
        return [archive.extractfile(member).read() for member in members]


@pytest.fixture(scope="module")
def source() -> Source:
    return source_of([*made_up(), *photographs()])


def source_of(files: list[bytes]) -> Source:
    return Source(
        name="files",
        class_names=tuple(str(i) for i in range(len(files))),
        labels=np.arange(len(files), dtype=np.int32),
        read=lambda index: decode(files[index], name=f"file {index}"),
        describe=lambda index: f"file {index}",
        encoded=lambda index: files[index],
    )


TIMM = {
    "crop": "timm_box",
    "antialias": True,
    "semantics": "timm",
    "randaugment_layers": 2,
    "randaugment_magnitude": 7.0,
    "randaugment_rate": 0.5,
    "randaugment_noise": 0.5,
    "randaugment_increasing": True,
}
NFNET = {
    "crop": "tf_box",
    "augment_before_mix": False,
    "randaugment_layers": 4,
    "randaugment_magnitude": 10.0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "nfnet": {**NFNET, "mixup_alpha": 0.2, "cutmix_alpha": 1.0},
    "nfnet, mixed on the device": {
        **NFNET,
        "augment_before_mix": True,
        "cutmix_alpha": 1.0,
    },
    "nfnet without a policy": {"crop": "tf_box"},
    "resnet_rs": {
        "crop": "tf_box",
        "interpolation": "bicubic_tf1",
        "randaugment_layers": 2,
        "randaugment_magnitude": 15.0,
    },
    "efficientnet v1": {
        "crop": "tf_box",
        "interpolation": "bicubic_tf1",
        "autoaugment": "v0",
    },
    "rsb": {**TIMM, "interpolation": "bicubic"},
    "rsb, random kernel": {**TIMM, "interpolation": "random"},
    "timm bilinear": {**TIMM, "interpolation": "bilinear"},
    "deit, repeated": {**TIMM, "interpolation": "bicubic", "repeats": 3},
    "3-augment": {
        **TIMM,
        "interpolation": "bicubic",
        "randaugment_layers": 0,
        "autoaugment": "3a",
    },
    "scaled decode": {
        "crop": "timm_box",
        "interpolation": "bilinear",
        "antialias": True,
        "scaled_decode": True,
    },
    "cifar": {"crop": "pad", "crop_pad": 4, "antialias": True},
    "cifar, floats": {"crop": "pad", "crop_pad": 4},
}
# Within one grey level: OpenCV rounds where it interpolates.
NEARLY: dict[str, dict[str, Any]] = {
    "effnetv2": {
        "crop": "v2_box",
        "crop_area": (0.05, 1.0),
        "interpolation": "bilinear",
    },
    "bilinear, mixed": {**RECIPES["nfnet"], "interpolation": "bilinear"},
}


def batches(source: Source, augment: AugmentConfig, **changes) -> list[dict]:
    options = dict(augment=augment, image_size=48, batch_size=24, num_steps=5)
    return list(train_iter(source, **{**options, **changes}))


@pytest.mark.parametrize("name", RECIPES)
def test_backends_give_the_same_bytes(name, source):
    augment = plain_augment(flip_rate=0.5, **RECIPES[name])
    ours = batches(source, augment, backend="native", threads=2)
    theirs = batches(source, augment, backend="python")
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for key in mine:
            np.testing.assert_array_equal(mine[key], other[key], err_msg=key)


@pytest.mark.parametrize("name", NEARLY)
def test_a_policy_amplifies_few_of_the_differences(name, source):
    recipe = {**NEARLY[name], "randaugment_layers": 2, "randaugment_magnitude": 10.0}
    augment = plain_augment(flip_rate=0.5, **recipe)
    ours = batches(source, augment, backend="native")
    theirs = batches(source, augment, backend="python")
    for mine, other in zip(ours, theirs, strict=True):
        assert np.mean(mine["image"] != other["image"]) < 0.02


@pytest.mark.parametrize("name", NEARLY)
def test_backends_are_within_one_grey_level(name, source):
    """RandAugment amplifies differences: they are counted where it is off."""
    recipe = {**NEARLY[name], "randaugment_layers": 0}
    augment = plain_augment(flip_rate=0.5, **recipe)
    ours = batches(source, augment, backend="native")
    theirs = batches(source, augment, backend="python")
    for mine, other in zip(ours, theirs, strict=True):
        difference = np.abs(mine["image"].astype(int) - other["image"])
        assert difference.max() <= 1
        assert np.mean(difference) < 0.01


def run_alone(image: np.ndarray, semantics: str, *operations: Operation) -> np.ndarray:
    """What the C++ code makes of a square image."""
    size = image.shape[0]
    crop = Crop((0, 0, size, size), "bilinear", antialias=True, flip=False)
    plan = SlotPlan(0, (Picture(image, size, size),), (crop,), None, operations, {})
    jobs = make_jobs([plan], image_size=size, encode=ENCODE[semantics], truncate=False)
    assert not jobs.left_over
    out = np.empty((1, size, size, 3), np.uint8)
    native.load().make_batch(*jobs.arguments, out, np.zeros(1, np.int32), 1)
    return out[0]


def draws(semantics: str, rng: np.random.Generator):
    for _ in range(40):
        for magnitude in (0.0, 3.0, 5.0, 7.3, 9.0, 10.0):
            if semantics == "tf":
                yield draw_randaugment(rng, 1, magnitude * 2)
                yield draw_autoaugment(rng)
            else:
                yield draw_timm(
                    rng,
                    layers=1,
                    magnitude=magnitude,
                    rate=1.0,
                    noise=0.5,
                    increasing=rng.random() < 0.5,
                    kernel="random",
                )


@pytest.mark.parametrize("semantics", ["tf", "timm"])
def test_operations_give_the_same_bytes(semantics):
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (33, 33, 3), np.uint8),
        np.asarray(picture(0, 33, 33)),
        np.full((33, 33, 3), 255, np.uint8),
        rng.integers(100, 130, (2, 2, 3), np.uint8),
    ]
    seen = set()
    for number, operations in enumerate(draws(semantics, rng)):
        image = images[number % len(images)]
        expected = apply_operations(image, operations, semantics)
        ours = run_alone(image, semantics, *operations)
        np.testing.assert_array_equal(ours, expected, err_msg=str(operations))
        seen |= {operation.name for operation in operations}
    assert len(seen) == {"tf": 16, "timm": 15}[semantics]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("recipe", ["nfnet", "deit, repeated"])
def test_stream_does_not_depend_on_threads_or_restarts(recipe, threads, source):
    augment = plain_augment(flip_rate=0.5, **RECIPES[recipe])
    whole = batches(source, augment, backend="native")
    for start in (0, 3):
        part = batches(
            source, augment, backend="native", threads=threads, start_step=start
        )
        for mine, other in zip(part, whole[start:], strict=True):
            for key in mine:
                np.testing.assert_array_equal(mine[key], other[key])


def test_broken_files_are_replaced_as_by_the_other_backend():
    """Cut files have no end mark; garbage has no header; both are named."""
    files = [saved(picture(i, 60, 80), "JPEG") for i in range(30)]
    files[3], files[11], files[20] = files[3][:-40], b"no image", b""
    streams, logs = [], []
    for backend in ("native", "python"):
        lines: list[str] = []
        stream = train_iter(
            source_of(files),
            augment=plain_augment(crop="timm_box", antialias=True),
            image_size=16,
            batch_size=30,
            num_steps=2,
            max_damaged=1.0,
            log=lines.append,
            backend=backend,
        )
        streams.append(list(stream))
        logs.append(sorted(lines))
        assert stream.damaged >= 6
    assert logs[0] == logs[1]
    assert len(logs[0]) == 3
    for number in (3, 11, 20):
        assert sum(f"file {number}: " in line for line in logs[0]) == 1
    for mine, other in zip(*streams, strict=True):
        for key in mine:
            np.testing.assert_array_equal(mine[key], other[key])


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_window_is_cut_from_the_same_pixels(subsampling):
    """Partial decodes at every kind of edge equal the strict decode of everything."""
    data = saved(picture(5, 70, 101), "JPEG", quality=88, subsampling=subsampling)
    whole, rng = decode(data), np.random.default_rng(0)
    for _ in range(150):
        top, left = int(rng.integers(0, 69)), int(rng.integers(0, 100))
        height = int(rng.integers(1, 71 - top))
        width = int(rng.integers(1, 102 - left))
        size = min(height, width)  # enlarged by nothing in the shorter direction
        crop = Crop((top, left, size, size), "bilinear", antialias=True, flip=False)
        plan = SlotPlan(0, (Picture(data, 70, 101),), (crop,), None, (), {})
        jobs = make_jobs([plan], image_size=size, encode=ENCODE["tf"], truncate=False)
        out = np.empty((1, size, size, 3), np.uint8)
        damaged = np.zeros(1, np.int32)
        native.load().make_batch(*jobs.arguments, out, damaged, 1)
        assert not damaged.any()
        expected = whole[top : top + size, left : left + size]
        np.testing.assert_array_equal(out[0], expected)


def test_headers():
    read = native.load().header
    assert read(saved(picture(0, 31, 47), "JPEG")) == (31, 47, 3)
    assert read(saved(picture(0, 31, 47).convert("L"), "JPEG")) == (31, 47, 1)
    for other in (b"", b"\xff", b"\xff\xd8", saved(picture(0, 3, 4), "PNG")):
        assert read(other) is None
    with pytest.raises(TypeError):
        read("text")


def test_wrong_arrays_are_refused():
    """The numbers come from Python, and the memory they name is real."""
    image = np.asarray(picture(0, 20, 20))
    plan = SlotPlan(
        0,
        (Picture(image, 20, 20),),
        (Crop((0, 0, 20, 20), "bilinear", antialias=True, flip=False),),
        None,
        (Operation("Invert"),),
        {},
    )
    jobs = make_jobs([plan], image_size=20, encode=ENCODE["tf"], truncate=False)

    def call(threads=1, images=None, damaged=None, **changes):
        out = np.empty((1, 20, 20, 3), np.uint8) if images is None else images
        marks = np.zeros(1, np.int32) if damaged is None else damaged
        arguments = jobs._replace(**changes).arguments
        native.load().make_batch(*arguments, out, marks, threads)

    def changed(name: str, field: str, value: int) -> dict:
        array = getattr(jobs, name).copy()
        array[field] = value
        return {name: array}

    call()
    wrong = [
        {"pictures": [image[..., :1].copy()]},
        {"pictures": [image[..., 0].copy()]},
        {"pictures": []},
        {"crops": jobs.crops.view(np.uint8)[:-1]},
        {"tables": jobs.tables[:0]},
        changed("crops", "width", 21),
        changed("crops", "top", -1),
        changed("crops", "kernel", 9),
        changed("rows", "slot", 1),
        changed("rows", "first", 1),
        changed("rows", "second", 7),
        changed("rows", "operations_end", 2),
        {"threads": 0},
        {"images": np.empty((1, 20, 21, 3), np.uint8)},
        {"damaged": np.zeros(2, np.int32)},
    ]
    for changes in wrong:
        with pytest.raises(ValueError, match=r"jobs\.py"):
            call(**changes)


def test_pictures_are_not_kept_while_batches_wait():
    """PNG files are decoded when their batch is made, not when it is planned."""
    alive, most = [0], [0]

    class Tracked(np.ndarray):
        def __del__(self) -> None:
            alive[0] -= 1

    files = [saved(picture(i, 30, 30), "PNG") for i in range(8)]

    def read(index: int) -> np.ndarray:
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return decode(files[index]).view(Tracked)

    source = Source(
        name="pngs",
        class_names=tuple("abcdefgh"),
        labels=np.arange(8, dtype=np.int32),
        read=read,
        describe=str,
        encoded=lambda index: files[index],
    )
    options = dict(image_size=8, batch_size=8, num_steps=12, threads=2)
    assert len(list(train_iter(source, backend="native", **options))) == 12
    assert most[0] <= 8  # a few per thread, not batches of them
