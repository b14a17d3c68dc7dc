"""Other loaders, each written as its documentation or its users do.

Their packages are imported in the functions, so that each works without the others.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from nfnets.benchmark.images import FOLDER, TFRECORD, image_files
from nfnets.benchmark.job import Job
from nfnets.benchmark.tf_randaugment import randaugment
from nfnets.benchmark.variants import Variant

_AREA, _ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
# Batches in tf.data's shuffle buffer, as in the official NFNet code.
_SHUFFLE_BATCHES = 10


def decode(job: Job, variant: Variant) -> Iterator[int]:
    """Whole images through libjpeg-turbo, from memory: no crop, resize or batch."""
    import simplejpeg

    del variant
    images = [Path(path).read_bytes() for path in image_files(job.directory)]
    endless = itertools.cycle(images)

    def decode_one(data: bytes) -> int:
        simplejpeg.decode_jpeg(data, "RGB", strict=True)
        return 1

    with ThreadPoolExecutor(job.threads) as pool:
        while True:
            batch = itertools.islice(endless, job.batch_size)
            yield sum(pool.map(decode_one, batch))


def tfdata(job: Job, variant: Variant) -> Iterator[np.ndarray]:
    """TFRecord, crop while decoding, flip and resize, as in Google's official codes."""
    import tensorflow as tf

    autotune = variant.mode == "AUTOTUNE"
    if not autotune:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    records = tf.data.TFRecordDataset(os.path.join(job.directory, TFRECORD)).repeat()
    records = records.shuffle(_SHUFFLE_BATCHES * job.batch_size, seed=0)
    seeds = tf.data.Dataset.counter()

    def load(record: Any, seed: Any) -> Any:
        image = _tf_image(record, seed, job.size, variant.kernel)
        if job.policy == "plain":
            return image
        return randaugment(image, seed, layers=2, magnitude=9.0)

    images = tf.data.Dataset.zip((records, seeds)).map(
        load, num_parallel_calls=tf.data.AUTOTUNE if autotune else job.threads
    )
    images = images.batch(job.batch_size, drop_remainder=True)
    images = images.prefetch(tf.data.AUTOTUNE if autotune else 1)
    if not autotune:
        options = tf.data.Options()
        options.threading.private_threadpool_size = job.threads
        options.threading.max_intra_op_parallelism = 1
        options.autotune.enabled = False
        images = images.with_options(options)
    yield from images.as_numpy_iterator()


def _tf_image(record: Any, seed: Any, size: int, kernel: str) -> Any:
    """One training image, uint8 ``[S, S, 3]``."""
    import tensorflow as tf

    data = tf.io.parse_single_example(
        record,
        {
            "image": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
        },
    )["image"]
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(data),
        bounding_boxes=tf.zeros([1, 0, 4]),
        seed=tf.stack([seed, 0]),
        min_object_covered=0.1,
        aspect_ratio_range=_ASPECT,
        area_range=_AREA,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], extent[:2]], 0)
    image = tf.image.decode_and_crop_jpeg(
        data, window, channels=3, dct_method="INTEGER_FAST"
    )
    # Not image[:, ::-1], which takes several times as long.
    image = tf.image.stateless_random_flip_left_right(image, tf.stack([seed, 1]))
    image = tf.image.resize(image, [size, size], kernel)
    return tf.cast(tf.clip_by_value(image, 0.0, 255.0), tf.uint8)


def torch_timm(job: Job, variant: Variant) -> Iterator[Any]:
    """PyTorch's DataLoader over files, with timm's transforms and collation."""
    import torch

    _import_torchvision()
    from timm.data import create_transform
    from timm.data.loader import fast_collate

    torch.set_num_threads(1)
    transform = create_transform(
        job.size,
        is_training=True,
        use_prefetcher=True,  # uint8, normalised on the device
        color_jitter=None,
        auto_augment="rand-m9-mstd0.5-inc1" if job.policy == "randaugment" else None,
        interpolation=variant.kernel,
    )
    loader = torch.utils.data.DataLoader(
        _TimmImages(image_files(job.directory), transform),
        job.batch_size,
        shuffle=True,
        num_workers=job.threads if variant.mode == "workers" else 0,
        collate_fn=fast_collate,
        drop_last=True,
        generator=torch.Generator().manual_seed(0),
    )
    for images, _ in loader:
        yield images


def _import_torchvision() -> None:
    """Imports it, also beside a torch that its compiled operators were not made for.

    Those are not needed, but it names two of them while being imported.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", schema)
        import torchvision
    del torchvision


class _TimmImages:
    """The files, over and over, as a map-style data set."""

    def __init__(self, files: list[str], transform: Any):
        self._files = files
        self._transform = transform

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        with Image.open(self._files[index % len(self._files)]) as file:
            image = file.convert("RGB")
        while True:
            try:
                return self._transform(image), 0
            except ValueError as error:
                # timm 1.0.31 beside Pillow 13 fails in 1 of 2000 images: draw again.
                if "bits must be" not in str(error):
                    raise


def dali(job: Job, variant: Variant) -> Iterator[np.ndarray]:
    """DALI's CPU operators, decoding only the random box."""
    from nvidia.dali import fn, pipeline_def, types

    del variant
    files = [os.path.basename(path) for path in image_files(job.directory)]

    @pipeline_def(
        batch_size=job.batch_size, num_threads=job.threads, device_id=None, seed=0
    )
    def make_pipeline() -> Any:
        encoded, _ = fn.readers.file(
            file_root=os.path.join(job.directory, FOLDER),
            files=files,
            random_shuffle=True,
        )
        image = fn.decoders.image_random_crop(
            encoded,
            device="cpu",
            output_type=types.RGB,
            random_area=_AREA,
            random_aspect_ratio=_ASPECT,
            num_attempts=10,
        )
        image = fn.resize(
            image,
            resize_x=job.size,
            resize_y=job.size,
            interp_type=types.INTERP_TRIANGULAR,
        )
        return fn.flip(image, horizontal=fn.random.coin_flip())

    pipeline = make_pipeline()
    pipeline.build()
    while True:
        (images,) = pipeline.run()
        yield np.asarray(images.as_tensor())
