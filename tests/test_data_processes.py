"""Several processes make one batch, and evaluate one split, between them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import plain_augment, train_iter

from nfnets.data.augment_config import AugmentConfig, EvalCrop
from nfnets.data.decode import DamagedImage
from nfnets.data.mixing import partners
from nfnets.data.order import shard_range
from nfnets.data.pipeline import make_eval_iter
from nfnets.data.sources import Source
from nfnets.errors import UserError

SHARDS = json.loads(
    (Path(__file__).parent / "golden" / "nfnet_shards.json").read_text("utf-8")
)["shards"]
# The official splits; VALID is the first 10,000 training images.
SPLITS = {
    "TRAIN": (10_000, 1_281_167),
    "TRAIN_AND_VALID": (0, 1_281_167),
    "VALID": (0, 10_000),
    "TEST": (0, 50_000),
}
PLAIN = plain_augment(
    crop="tf_box",
    crop_area=(0.3, 1.0),
    flip_rate=0.5,
    augment_before_mix=False,
    randaugment_layers=2,
    randaugment_magnitude=9.0,
)
MIXED_ON_HOST = dataclasses.replace(PLAIN, mixup_alpha=0.2, cutmix_alpha=1.0)
MIXED_ON_DEVICE = dataclasses.replace(MIXED_ON_HOST, augment_before_mix=True)
WHOLE = EvalCrop("resize", "bilinear", antialias=False)


@pytest.mark.parametrize("case", SHARDS)
def test_shards_are_the_official_ones(case):
    split, count = case.split("/")
    ours = [
        list(shard_range(*SPLITS[split], index, int(count)))
        for index in range(int(count))
    ]
    assert ours == SHARDS[case]


def test_shards_may_be_empty():
    assert [shard_range(5, 7, i, 4) for i in range(4)] == [
        (5, 6),
        (6, 7),
        (7, 7),
        (7, 7),
    ]


def noise_source(count: int, damaged: frozenset[int] = frozenset()) -> Source:
    """Image i is noise with the pixel value i in its corner; its label is i."""
    images = np.random.default_rng(0).integers(0, 256, (count, 9, 9, 3), np.uint8)
    images[:, 0, 0] = np.arange(count)[:, None]

    def read(index: int) -> np.ndarray:
        if index in damaged:
            raise DamagedImage(f"record {index}", "broken on purpose")
        return images[index]

    return Source(
        name="noise",
        class_names=tuple(str(i) for i in range(count)),
        labels=np.arange(count, dtype=np.int32),
        read=read,
        describe=lambda index: f"record {index}",
    )


def train_batches(source: Source, augment: AugmentConfig, **changes):
    """Steps 2 to 4, in which 32 records are read, mixing partners among them."""
    options = dict(
        augment=augment,
        image_size=8,
        batch_size=32 // partners(augment),
        num_devices=4,
        seed=5,
        start_step=2,
        num_steps=5,
    )
    return train_iter(source, **{**options, **changes})


@pytest.mark.parametrize("augment", [PLAIN, MIXED_ON_HOST, MIXED_ON_DEVICE])
@pytest.mark.parametrize(("count", "num_devices"), [(2, 2), (4, 1)])
def test_processes_make_the_batch_of_one(augment, count, num_devices):
    """32 records a step of 19: epochs meet inside of every batch; one is damaged."""
    source = noise_source(19, damaged=frozenset({7}))
    alone = list(train_batches(source, augment))
    shares = [
        list(
            train_batches(
                source,
                augment,
                num_devices=num_devices,
                process_index=index,
                process_count=count,
            )
        )
        for index in range(count)
    ]
    assert len(alone) == 3
    for step, whole in enumerate(alone):
        for name, array in whole.items():
            parts = [share[step][name] for share in shares]
            assert all(len(part) == num_devices for part in parts)
            np.testing.assert_array_equal(np.concatenate(parts), array)
            assert all(part.dtype == array.dtype for part in parts)


def test_processes_count_their_own_damage():
    source = noise_source(100, damaged=frozenset(range(0, 100, 5)))
    options = dict(batch_size=80, num_devices=1, max_damaged=1.0)
    counts = []
    for index in range(4):
        batches = train_batches(
            source, PLAIN, process_index=index, process_count=4, **options
        )
        assert len(list(batches)) == 3
        counts.append(batches.damaged)
    alone = train_batches(source, PLAIN, **options)
    assert len(list(alone)) == 3
    assert sum(counts) == alone.damaged
    assert min(counts) > 0


def test_the_limit_counts_images_read_by_this_process():
    """With partners, twice the images trained on; before the start too."""
    source = noise_source(100, damaged=frozenset(range(0, 100, 5)))
    options = dict(process_count=2, num_devices=1, start_step=1, num_steps=40)
    batches = train_batches(
        source, MIXED_ON_HOST, max_damaged=0.01, batch_size=40, **options
    )
    with pytest.raises(UserError, match=r"11 damaged images among (\d+) seen") as error:
        list(batches)
    seen = int(str(error.value).split(" among ")[1].split()[0])
    assert seen % 20 == 0  # 20 records a step, the first step included
    assert 40 <= seen <= 120  # about 11 / 0.25 of them


@pytest.mark.parametrize("length", [1, 7, 103])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_evaluation_sees_every_example_once(length, count):
    source = noise_source(length)
    parts = [
        list(
            make_eval_iter(
                source,
                crop=WHOLE,
                image_size=9,
                batch_size=12,
                num_devices=12 // count // (2 if count < 4 else 1),
                threads=1,
                process_index=index,
                process_count=count,
            )
        )
        for index in range(count)
    ]
    assert len({len(part) for part in parts}) == 1  # or the program would hang
    batches = [batch for part in parts for batch in part]
    assert len({batch["image"].shape for batch in batches}) == 1
    assert all(batch["image"].dtype == np.float32 for batch in batches)
    assert batches[0]["mask"].size == 12 // count
    labels = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
    images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
    assert labels.tolist() == list(range(length))
    assert images[:, 0, 0, 0].tolist() == list(range(length))
    for batch in batches:
        assert not batch["image"][~batch["mask"]].any()


def test_batch_must_divide_over_all_processes():
    options = dict(num_devices=3, process_count=2)
    with pytest.raises(UserError, match=r"16, which 6 devices .* a multiple of 6"):
        train_batches(noise_source(9), MIXED_ON_HOST, **options)
    with pytest.raises(UserError, match=r"evaluation batch size is 4.*6 devices"):
        make_eval_iter(
            noise_source(9),
            crop=WHOLE,
            image_size=9,
            batch_size=4,
            threads=1,
            **options,
        )
