"""The stream of batches: a function of the step, complete, and honest about damage."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
from pathlib import Path

import helpers
import numpy as np
import pytest
from helpers import plain_augment
from PIL import Image

from nfnets.data.augment_config import EvalCrop
from nfnets.data.decode import DamagedImage
from nfnets.data.order import records_at
from nfnets.data.pipeline import make_eval_iter, make_train_iter
from nfnets.data.sources import Source, open_source
from nfnets.errors import UserError

AUGMENT = plain_augment(crop="tf_box", crop_pad=1, crop_area=(0.3, 1.0), flip_rate=0.5)
PLAIN = dataclasses.replace(AUGMENT, crop="resize", flip_rate=0.0)
WHOLE = EvalCrop("resize", "bilinear", antialias=False)


def numbered(count: int, damaged: frozenset[int] = frozenset()) -> Source:
    """Image i has the value i, and so has its label; some cannot be read."""

    def read(index: int) -> np.ndarray:
        if index in damaged:
            raise DamagedImage(f"record {index}", "broken on purpose")
        return np.full((4, 4, 3), index, np.uint8)

    return Source(
        name="numbered",
        class_names=tuple(str(i) for i in range(count)),
        labels=np.arange(count, dtype=np.int32),
        read=read,
        describe=lambda index: f"record {index}",
    )


def train_iter(source: Source, **changes):
    return helpers.train_iter(source, **{"augment": PLAIN, **changes})


def eval_iter(source: Source, **changes):
    options = dict(crop=WHOLE, image_size=4, batch_size=6, num_devices=2, threads=1)
    return make_eval_iter(source, **{**options, **changes})


def assert_same(ours: list, theirs: list) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def loader_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("nfnets-data")]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert loader_threads() == []


def test_shapes_and_types():
    (batch, *_) = train_iter(numbered(7), image_size=5, num_steps=1)
    assert batch["image"].shape == (2, 3, 5, 5, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["label"].shape == (2, 3)
    assert batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][..., 0, 0, 0], batch["label"])


@pytest.mark.parametrize("threads", [2, 5])
def test_stream_does_not_depend_on_threads(threads):
    source = open_source("digits", "train")
    options = dict(augment=AUGMENT, image_size=12, batch_size=32, num_steps=4)
    alone = list(train_iter(source, **options))
    assert_same(list(train_iter(source, threads=threads, **options)), alone)


@pytest.mark.parametrize("start", [1, 3, 9, 10])
def test_stream_goes_on_from_any_step(start):
    """13 records, 6 a step: step 2 and others span two epochs."""
    source = numbered(13)
    options = dict(augment=dataclasses.replace(AUGMENT, crop="pad"), threads=2)
    whole = list(train_iter(source, **options))
    assert len(whole) == 10
    assert_same(list(train_iter(source, start_step=start, **options)), whole[start:])


def test_seed_changes_order_and_augmentation():
    source = open_source("digits", "train")
    first, other = (next_batch(source, seed) for seed in (0, 1))
    assert not np.array_equal(first["label"], other["label"])
    # One white record: the order cannot differ, only the augmentation is left.
    white = np.full((4, 4, 3), 255, np.uint8)
    one = dataclasses.replace(numbered(1), read=lambda index: white)
    images = [next_batch(one, seed)["image"] for seed in (0, 1)]
    assert not np.array_equal(*images)


def next_batch(source: Source, seed: int) -> dict[str, np.ndarray]:
    augment = dataclasses.replace(AUGMENT, crop="pad")
    with train_iter(source, augment=augment, seed=seed, batch_size=64) as batches:
        return next(batches)


def test_slots_and_steps_are_augmented_differently():
    """One record, many slots: each has its own shift."""
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    source = dataclasses.replace(numbered(1), read=lambda index: image)
    augment = dataclasses.replace(AUGMENT, crop="pad", crop_pad=4)
    batches = train_iter(source, augment=augment, image_size=8, batch_size=32)
    seen = {slot.tobytes() for b in batches for slot in b["image"].reshape(32, -1)}
    # 320 draws of 81 shifts x 2 flips: about 162 (1 - e^-2) = 140 differ.
    assert 115 < len(seen) <= 162


@pytest.mark.parametrize("batch_size", [1, 6, 13, 14, 40])
def test_every_image_once_per_epoch(batch_size):
    count, epochs = 13, 8
    steps = -(-count * epochs // batch_size)
    order = np.concatenate(
        [records_at(5, step * batch_size, batch_size, count) for step in range(steps)]
    )[: count * epochs].reshape(epochs, count)
    np.testing.assert_array_equal(
        np.sort(order), np.tile(np.arange(count), (epochs, 1))
    )
    assert len({tuple(epoch) for epoch in order.tolist()}) == epochs


def stages_of(*settings: tuple[int, int, dict]) -> list[helpers.OneStage]:
    """(steps, image size, augmentation) each."""
    return [
        helpers.OneStage(steps, size, plain_augment(crop="pad", crop_pad=1, **augment))
        for steps, size, augment in settings
    ]


# The second stage mixes, so each of its steps reads twice as many records.
PROGRESSIVE = stages_of(
    (3, 4, {}),
    (4, 6, {"mixup_alpha": 0.2, "flip_rate": 0.5}),
    (2, 8, {"randaugment_layers": 1, "randaugment_magnitude": 5.0}),
)


def progressive_iter(source: Source, **changes):
    options = dict(
        batch_size=6,
        num_devices=2,
        seed=0,
        start_step=0,
        max_damaged=0.0,
        threads=2,
        log=lambda line: None,
    )
    return make_train_iter(source, stages=PROGRESSIVE, **{**options, **changes})


@pytest.mark.parametrize("backend", helpers.BACKENDS)
def test_stages_follow_each_other_without_losing_or_repeating_a_record(backend):
    source = numbered(13)
    batches = list(progressive_iter(source, backend=backend))
    sizes = [batch["image"].shape[2] for batch in batches]
    assert sizes == [4] * 3 + [6] * 4 + [8] * 2
    labels = np.concatenate([batch["label"].ravel() for batch in batches])
    # 3 * 6 + 4 * 12 + 2 * 6 records: six epochs of 13, in the order of one long stage.
    assert labels.tolist() == records_at(0, 0, 78, 13).tolist()
    for start in range(10):
        again = list(progressive_iter(source, start_step=start, backend=backend))
        assert_same(again, batches[start:])


def test_the_next_stage_is_prepared_before_it_starts():
    source, reads = numbered(13), []

    def read(index):
        reads.append(index)
        return source.read(index)

    watched = dataclasses.replace(source, read=read)
    with progressive_iter(watched, threads=1) as batches:
        for _ in range(2):
            next(batches)
        deadline = time.monotonic() + 20
        while len(reads) < 3 * 6 + 12 and time.monotonic() < deadline:
            time.sleep(0.01)
        # Those of the first stage's 3 batches of 6, and of the second's first of 12.
        assert len(reads) >= 3 * 6 + 12
        assert next(batches)["image"].shape[2] == 4
        assert next(batches)["image"].shape[2] == 6


def test_epoch_order_is_uniform():
    """Where record 0 stands: chi-squared with 9 degrees of freedom, 99.9 % is 27.9."""
    places = [records_at(s, 0, 10, 10).tolist().index(0) for s in range(2000)]
    counts = np.bincount(places, minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9


def test_order_is_pinned():
    """A changed order would silently change what a resumed run sees."""
    philox = np.random.Philox(key=[7, 1], counter=[0, 0, 0, 0])  # seed 7, epoch 1
    expected = np.argsort(philox.random_raw(8) >> np.uint64(11)).tolist()
    assert expected == [3, 1, 6, 2, 5, 4, 0, 7]
    assert records_at(7, 8, 8, 8).tolist() == expected


def test_damaged_image_is_replaced_counted_and_named_once():
    source = numbered(40, damaged=frozenset({3}))
    lines: list[str] = []
    options = dict(batch_size=40, num_steps=4, log=lines.append)
    batches = train_iter(source, **options)
    counts, labels = [], []
    for batch in batches:
        counts.append(batches.damaged)
        labels.append(batch["label"].ravel().tolist())
        np.testing.assert_array_equal(batch["image"][..., 0, 0, 0], batch["label"])
    # Once per epoch; a replacement may be the damaged record again, and counts.
    assert counts[0] >= 1
    assert counts[-1] >= 4
    assert all(3 not in step and len(step) == 40 for step in labels)
    assert len(lines) == 1
    assert "record 3: broken on purpose" in lines[0]
    again = [
        b["label"].ravel().tolist() for b in train_iter(source, threads=3, **options)
    ]
    assert again == labels


def test_too_many_damaged_images_stop_the_run():
    source = numbered(100, damaged=frozenset(range(0, 100, 5)))
    batches = train_iter(source, batch_size=50, max_damaged=0.01, threads=2)
    with pytest.raises(UserError, match=r"damaged images among \d+ seen.*max_damaged"):
        list(batches)
    assert batches.damaged == 11  # ten are always allowed
    assert list(batches) == []


def test_the_limit_is_a_share_of_the_images_seen():
    source = numbered(100, damaged=frozenset(range(0, 100, 5)))
    batches = train_iter(source, batch_size=50, num_steps=40, max_damaged=0.3)
    assert len(list(batches)) == 40
    assert 0.15 < batches.damaged / 2000 < 0.35


def test_nothing_but_damage_ends_with_one_line():
    source = numbered(8, damaged=frozenset(range(8)))
    with pytest.raises(UserError, match="21 records in a row are damaged") as caught:
        list(train_iter(source))
    assert "\n" not in str(caught.value)


def broken_folder(root: Path) -> Path:
    """Sixty good pictures and four damaged ones in the training split."""
    for split, count in (("train", 60), ("test", 5)):
        folder = root / split / "only"
        folder.mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (16, 16), (i, 0, 0)).save(folder / f"{i:03}.jpg")
    good = (root / "train" / "only" / "000.jpg").read_bytes()
    damaged = {"cut": good[:-60], "empty": b"", "text": b"no image", "zero": bytes(99)}
    for name, data in damaged.items():
        (root / "train" / "only" / f"{name}.jpg").write_bytes(data)
    return root


def test_damaged_files_in_a_folder(tmp_path: Path):
    source = open_source(f"folder:{broken_folder(tmp_path)}", "train")
    assert len(source) == 64
    lines: list[str] = []
    with train_iter(source, batch_size=64, num_steps=1, log=lines.append) as batches:
        next(batches)
        assert 4 <= batches.damaged <= 8
    assert len(lines) == 4
    for name in ("cut", "empty", "text", "zero"):
        assert sum(f"only/{name}.jpg: " in line for line in lines) == 1


def test_evaluation_never_leaves_an_image_out(tmp_path: Path):
    root = broken_folder(tmp_path)
    path = root / "test" / "only" / "003.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    batches = eval_iter(open_source(f"folder:{root}", "test"), batch_size=2)
    assert next(batches)["mask"].all()
    with pytest.raises(UserError, match=r"damaged evaluation image .*003\.jpg"):
        next(batches)
    assert list(batches) == []


@pytest.mark.parametrize("num_devices", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 6, 13, 18])
@pytest.mark.parametrize("threads", [1, 3])
def test_evaluation_is_exact(num_devices, count, threads):
    batches = list(eval_iter(numbered(count), num_devices=num_devices, threads=threads))
    assert len(batches) == -(-count // 6)
    for batch in batches:
        assert batch["image"].shape == (num_devices, 6 // num_devices, 4, 4, 3)
        assert (
            batch["label"].shape
            == batch["mask"].shape
            == (num_devices, 6 // num_devices)
        )
        padding = ~batch["mask"]
        assert not batch["image"][padding].any()
        assert not batch["label"][padding].any()
    assert sum(batch["mask"].sum() for batch in batches) == count
    labels = np.concatenate([batch["label"][batch["mask"]] for batch in batches])
    images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
    assert labels.tolist() == list(range(count))
    assert images[:, 0, 0, 0].tolist() == list(range(count))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 7}, "batch size is 7.*2 devices.*multiple of 2"),
        ({"batch_size": 0}, "batch size is 0"),
        ({"image_size": 0}, "image size is 0"),
        ({"threads": 0}, "threads is 0; expected 1 or more"),
        ({"augment": dataclasses.replace(PLAIN, crop="x")}, "crop is 'x'"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(UserError, match=message):
        train_iter(numbered(5), **changes)


def test_evaluation_settings_that_do_not_fit():
    with pytest.raises(UserError, match=r"evaluation batch size is 6.*4 devices"):
        eval_iter(numbered(5), num_devices=4)


@pytest.mark.parametrize("threads", [1, 3])
def test_error_in_a_worker_reaches_the_consumer(threads):
    def read(index: int) -> np.ndarray:
        raise ZeroDivisionError("a bug, not a damaged file")

    source = dataclasses.replace(numbered(5), read=read)
    batches = train_iter(source, threads=threads)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        next(batches)
    assert list(batches) == []
    assert loader_threads() == []


@pytest.mark.parametrize("threads", [1, 3])
def test_close_is_quick_and_leaves_no_thread(threads):
    def read(index: int) -> np.ndarray:
        time.sleep(0.02)  # 600 of them would take 12 s
        return np.zeros((4, 4, 3), np.uint8)

    source = dataclasses.replace(numbered(5), read=read)
    batches = train_iter(source, batch_size=600, threads=threads)
    assert loader_threads()
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 2
    assert loader_threads() == []
    batches.close()
    assert list(batches) == []


def test_closing_wakes_a_consumer_that_waits():
    release = threading.Event()

    def read(index: int) -> np.ndarray:
        release.wait(20)
        return np.zeros((4, 4, 3), np.uint8)

    batches = train_iter(dataclasses.replace(numbered(5), read=read))
    got: list = []
    consumer = threading.Thread(target=lambda: got.extend(batches))
    consumer.start()
    threading.Timer(0.1, release.set).start()
    batches.close()
    consumer.join(20)
    assert not consumer.is_alive()
    assert got == []


def test_dropped_iterator_leaves_no_thread():
    batches = train_iter(numbered(5), num_steps=1000, threads=2)
    next(batches)
    assert loader_threads()
    del batches
    gc.collect()
    assert loader_threads() == []


def test_at_most_two_batches_wait():
    reads = []

    def read(index: int) -> np.ndarray:
        reads.append(index)
        return np.zeros((4, 4, 3), np.uint8)

    source = dataclasses.replace(numbered(5), read=read)
    with train_iter(source, num_steps=1000, backend="python") as batches:
        next(batches)
        # One taken, two ready, one that waits for a place.
        deadline = time.monotonic() + 20
        while len(reads) < 4 * 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(reads) == 4 * 6


def test_batches_do_not_share_memory():
    first, second = list(train_iter(numbered(5), num_steps=2))
    assert not np.shares_memory(first["image"], second["image"])
