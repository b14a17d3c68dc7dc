"""EfficientNetV2's and timm's mixing, given the draws of the official codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import plain_augment

from nfnets.data import effnetv2_mixing, mixing, timm_mixing
from nfnets.data.mixing_draws import Mixed
from nfnets.training.losses import soft_targets

FOLDER = Path(__file__).parent / "golden"
EFFNETV2 = json.loads((FOLDER / "effnetv2_mixing.json").read_text("utf-8"))
TIMM = json.loads((FOLDER / "timm_mixing.json").read_text("utf-8"))
TIMM_LABELS = np.array([2, 0, 6, 3])

jitted_mix = jax.jit(mixing.mix, static_argnums=3)


def targets_of(mixed: Mixed, num_classes: int, smoothing: float = 0.0) -> np.ndarray:
    return np.asarray(soft_targets(*mixed[1:], num_classes, smoothing))


def effnetv2_inputs() -> tuple[np.ndarray, np.ndarray]:
    """Images and masks as the golden's ``origin`` describes them."""
    rs = np.random.RandomState(2)  # as the goldens were made
    images = rs.standard_normal((4, 6, 6, 3)).astype(np.float32)
    mask = np.zeros((4, 6, 6, 1), np.float32)
    mask[0, 1:3, 1:5] = mask[2] = mask[3, 0:2, 0:2] = 1
    return images, mask


def test_effnetv2_cutmix_is_the_official_one():
    images, mask = effnetv2_inputs()
    mixed = effnetv2_mixing.cutmix(images, np.arange(4), mask)
    np.testing.assert_allclose(
        mixed[0].sum(axis=(1, 2, 3)), EFFNETV2["image_sums"], rtol=1e-6
    )
    np.testing.assert_allclose(targets_of(mixed, 4), EFFNETV2["targets"], rtol=1e-6)
    np.testing.assert_allclose(mixed[3], np.full(4, 1 - EFFNETV2["area"]), rtol=1e-6)


def test_effnetv2_mixup_by_hand():
    images = jnp.array([0.0, 10.0, 20.0, 40.0])[:, None, None, None]
    share = jnp.array([0.25, 0.5, 0.9, 1.0])  # folded: 0.75, 0.5, 0.9, 1
    mixed = effnetv2_mixing.mixup(images, jnp.arange(4), share)
    # 0.75 * 0 + 0.25 * 40, 0.5 * 10 + 0.5 * 20, 0.9 * 20 + 0.1 * 10, 40.
    np.testing.assert_allclose(mixed[0].ravel(), [10, 15, 19, 40], rtol=1e-6)
    np.testing.assert_allclose(mixed[3], [0.75, 0.5, 0.9, 1.0], rtol=1e-6)
    assert mixed[2].tolist() == [3, 2, 1, 0]


def test_effnetv2_halves_have_their_own_partners():
    images, mask = effnetv2_inputs()
    share = jnp.array([0.8, 0.3])
    mixed = effnetv2_mixing.half_half_mix(images, np.arange(4), share, mask[2:])
    assert mixed[2].tolist() == [1, 0, 3, 2]
    # Mixup 0.8, 0.7; cutmix: half of the masks 2 (all) and 3 (4 of 36) is 40 / 72.
    np.testing.assert_allclose(mixed[3], [0.8, 0.7, 32 / 72, 32 / 72], rtol=1e-6)
    np.testing.assert_allclose(mixed[0][2], images[3])
    np.testing.assert_allclose(mixed[0][3][2:], images[3][2:])


def test_effnetv2_mixup_has_the_folded_law():
    config = plain_augment(mixing="effnetv2", mixup_alpha=1.0)
    images = jnp.zeros((4000, 1, 1, 3))
    ratio = jitted_mix(images, jnp.arange(4000), jax.random.key(0), config)[3]
    # max(u, 1 - u) of a uniform u is uniform in 1/2..1.
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(ratio, q) == pytest.approx(0.5 + q / 2, abs=0.02)


def numpy_draws(seed: int, config: dict[str, Any]) -> timm_mixing.Draws:
    """The draws that timm's Mixup makes for 4 images of 6 x 6, in its order."""
    rs = np.random.RandomState(seed)  # the same numbers as np.random.seed
    mixup, cutmix = config["mixup_alpha"], config["cutmix_alpha"]
    count = {"batch": 1, "pair": 2, "elem": 4}[config["mode"]]
    if config["mode"] == "batch":
        assert rs.rand() < config["prob"]
        use = np.array([cutmix > 0])
        if mixup and cutmix:
            use = np.array([rs.rand() < config["switch_prob"]])
        alpha = cutmix if use[0] else mixup
        share = np.array([rs.beta(alpha, alpha)])
    else:
        use = rs.rand(count) < config["switch_prob"]
        shares = rs.beta(cutmix, cutmix, count), rs.beta(mixup, mixup, count)
        share = np.where(use, *shares)
        assert (rs.rand(count) < config["prob"]).all()
    centres = [rs.randint(0, 6, 2) if box else (0, 0) for box in use]
    y, x = np.array(centres, np.int32).T
    return timm_mixing.Draws(
        jnp.asarray(share, jnp.float32),
        jnp.asarray(use),
        jnp.asarray(y),
        jnp.asarray(x),
    )


@pytest.mark.parametrize(
    "case", TIMM["batches"], ids=lambda c: f"{c['config']['mode']}{c['numpy_seed']}"
)
def test_timm_batches_are_timm_s(case):
    images = np.arange(144, dtype=np.float32).reshape(4, 6, 6, 1)
    draws = numpy_draws(case["numpy_seed"], case["config"])
    mixed = timm_mixing.mix_drawn(images, TIMM_LABELS, draws)
    np.testing.assert_allclose(mixed[0][..., 0], case["images"], rtol=1e-5, atol=1e-5)
    targets = targets_of(mixed, 7, case["config"]["label_smoothing"])
    np.testing.assert_allclose(targets, case["targets"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", TIMM["targets"])
def test_timm_targets_are_timm_s(name):
    """On and off values per label are this formula of the mixed label."""
    case = TIMM["targets"][name]
    if name == "per_element":
        share, smoothing, expected = case["lam"], case["smooth"], case["target"]
    else:
        share = [0.7 if name.startswith("lam07") else 1.0] * 4
        smoothing, expected = 0.1 if name.endswith("01") else 0.0, case
    mixed = (None, TIMM_LABELS, TIMM_LABELS[::-1], np.array(share, np.float32))
    np.testing.assert_allclose(targets_of(mixed, 7, smoothing), expected, rtol=1e-6)


@pytest.mark.parametrize("case", TIMM["boxes"], ids=lambda c: f"{c['lam']:.3f}")
def test_timm_boxes_are_timm_s(case):
    y, x = case["centre_yx"]
    draws = timm_mixing.Draws(
        jnp.array([case["lam"]], jnp.float32),
        jnp.array([True]),
        jnp.array([y], jnp.int32),
        jnp.array([x], jnp.int32),
    )
    images = np.zeros((2, 224, 224, 1), np.float32)
    images[1] = 1
    out, _, _, ratio = timm_mixing.mix_drawn(images, np.arange(2), draws)
    expected = np.zeros((224, 224))
    top, bottom, left, right = case["box_y0_y1_x0_x1"]
    expected[top:bottom, left:right] = 1
    np.testing.assert_array_equal(out[0, :, :, 0], expected)
    np.testing.assert_array_equal(out[1, :, :, 0], 1 - expected)
    np.testing.assert_allclose(ratio, [case["corrected_lam"]] * 2, rtol=1e-6)


def test_timm_mixes_to_whole_grey_levels():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.integers(0, 256, (8, 6, 6, 3), np.uint8))
    config = plain_augment(mixing="timm_elem", mixup_alpha=1.0)
    mixed = jitted_mix(images, jnp.arange(8), jax.random.key(0), config)
    out, ratio = np.asarray(mixed[0]), np.asarray(mixed[3])[:, None, None, None]
    exact = ratio * np.asarray(images) + (1 - ratio) * np.asarray(images[::-1])
    np.testing.assert_array_equal(out, np.round(out))
    assert np.abs(out - exact).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("mode", "groups"), [("batch", 1), ("pair", 4), ("elem", 8)])
def test_timm_draws_once_per_batch_pair_or_element(mode, groups):
    images, labels = jnp.zeros((8, 4, 4, 3)), jnp.arange(8)
    config = plain_augment(mixing=f"timm_{mode}", mixup_alpha=1.0)
    ratio = np.asarray(jitted_mix(images, labels, jax.random.key(1), config)[3])
    assert len(set(ratio.tolist())) == groups
    if mode == "pair":
        np.testing.assert_array_equal(ratio, ratio[::-1])


def test_timm_rates_over_many_draws():
    config = plain_augment(
        mixing="timm_elem",
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        mix_rate=0.7,
        cutmix_rate=0.25,
    )
    draws = timm_mixing.sample_draws(jax.random.key(2), 20_000, 32, 48, config)
    share, cutmix, y, x = (np.asarray(draw) for draw in draws)
    # Five standard deviations of a rate of 1/2 over 20,000 draws: 0.018.
    assert cutmix.mean() == pytest.approx(0.25, abs=0.018)
    # Beta(0.2, 0.2) is 1 in float32 now and then; U(0, 1) is not.
    assert (share[cutmix] < 1).mean() == pytest.approx(0.7, abs=0.03)
    mixup = share[~cutmix]
    # Beta(a, a) has mean 1/2 and second moment (a + 1) / (2 (2 a + 1)) = 3 / 7.
    assert mixup.mean() == pytest.approx(0.3 + 0.7 / 2, abs=0.02)
    assert (mixup**2).mean() == pytest.approx(0.3 + 0.7 * 3 / 7, abs=0.02)
    assert (share[cutmix] ** 2).mean() == pytest.approx(0.3 + 0.7 / 3, abs=0.03)
    assert (y.min(), y.max(), x.min(), x.max()) == (0, 31, 0, 47)


def test_timm_of_one_form_always_takes_it():
    for alphas in ({"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}):
        config = plain_augment(mixing="timm_elem", cutmix_rate=0.5, **alphas)
        draws = timm_mixing.sample_draws(jax.random.key(2), 100, 8, 8, config)
        assert bool((draws.cutmix == ("cutmix_alpha" in alphas)).all())
        assert float(draws.share.max()) < 1
