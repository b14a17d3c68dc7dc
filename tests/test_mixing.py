"""Normalisation, NFNet's mixing against the official numbers, laws of all forms."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import plain_augment

from nfnets.data import mixing, mixing_draws, nfnet_mixing
from nfnets.data.augment_config import MIXINGS, check_augment
from nfnets.data.normalization import normalize
from nfnets.errors import UserError

GOLDEN = json.loads(
    (Path(__file__).parent / "golden" / "nfnet_mixing.json").read_text("utf-8")
)
NO_MIXING = plain_augment(flip_rate=0.5)
BOTH = plain_augment(mixup_alpha=0.2, cutmix_alpha=1.0)
IN_PLACE = ("effnetv2", "timm_batch", "timm_pair", "timm_elem")

jitted_mix = jax.jit(mixing.mix, static_argnums=3)


def golden_inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels, ratios and masks as golden's ``source`` describes them."""
    rs = np.random.RandomState(0)  # as the goldens were made
    images = rs.standard_normal((8, 16, 16, 3)).astype(np.float32)
    ratio = rs.uniform(size=8).astype(np.float32)
    mask = np.zeros((8, 16, 16, 1), np.float32)
    for i in range(8):
        mask[i, i : i + 6, 2 * i % 8 : 2 * i % 8 + 5] = 1
    return images, np.arange(8), ratio, mask


def assert_golden(mixed: mixing_draws.Mixed, name: str) -> None:
    images, labels, mix_labels, ratio = (np.asarray(part) for part in mixed)
    golden = GOLDEN["mixing"][name]
    assert list(images.shape) == golden["images_shape"]
    np.testing.assert_allclose(
        images.mean(axis=(1, 2, 3)), golden["images_mean_per_example"], atol=1e-6
    )
    np.testing.assert_allclose(
        np.sqrt((images**2).sum(axis=(1, 2, 3))),
        golden["images_l2_per_example"],
        rtol=1e-6,
    )
    assert labels.tolist() == golden["labels"]
    assert mix_labels.tolist() == golden["mix_labels"]
    np.testing.assert_allclose(ratio, golden["ratio"], rtol=1e-6)


def test_mixup_is_the_official_one():
    images, labels, ratio, _ = golden_inputs()
    assert_golden(nfnet_mixing.mixup(images, labels, ratio[:4]), "mixup")


def test_cutmix_is_the_official_one():
    images, labels, _, mask = golden_inputs()
    assert_golden(nfnet_mixing.cutmix(images, labels, mask[:4]), "cutmix")


def test_half_half_is_the_official_one():
    images, labels, ratio, mask = golden_inputs()
    # The official code draws for the whole loader batch, and each half reads its own
    # quarter: ratios 0, 1 and masks 4, 5.
    mixed = nfnet_mixing.half_half_mix(images, labels, ratio[:2], mask[4:6])
    assert_golden(mixed, "mixup_cutmix")


@pytest.mark.parametrize("case", GOLDEN["cutmix_boxes"], ids=lambda c: f"{c['r_x']}")
def test_cutmix_boxes_are_the_official_ones(case):
    height, width = case["h"], case["w"]
    mask = mixing_draws.cutmix_mask(
        height,
        width,
        jnp.array([case["r_y"]]),
        jnp.array([case["r_x"]]),
        jnp.array([case["proportion"]], jnp.float32),
    )
    expected = np.zeros((height, width), np.float32)
    if case["box_y0y1x0x1"] is not None:
        top, bottom, left, right = case["box_y0y1x0x1"]
        expected[top:bottom, left:right] = 1
    np.testing.assert_array_equal(mask[0, :, :, 0], expected)
    assert float(mask.mean()) == pytest.approx(case["ratio"], rel=1e-6)


def constant_images(count: int) -> tuple[jax.Array, jax.Array]:
    """Image i is i everywhere, with label i."""
    values = jnp.arange(count)
    images = jnp.broadcast_to(values[:, None, None, None], (count, 16, 16, 3))
    return images.astype(jnp.uint8), values


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_weight_of_a_label_is_the_weight_of_its_image(mixup, cutmix):
    images, labels = constant_images(32)
    config = plain_augment(mixup_alpha=mixup, cutmix_alpha=cutmix)
    mixed = jitted_mix(images, labels, jax.random.key(3), config)
    out, first, second, ratio = mixed
    assert out.shape == (16, 16, 16, 3)
    assert out.dtype == jnp.float32
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(32))
    # Constant images: the mean of the mixed image is the mean of the mixed label.
    expected = ratio * first + (1 - ratio) * second
    np.testing.assert_allclose(out.mean(axis=(1, 2, 3)), expected, rtol=1e-5)
    assert len(set(ratio.tolist())) > 8
    assert float(ratio.min()) >= 0
    assert float(ratio.max()) <= 1


def test_both_mixups_share_the_batch_half_and_half():
    images, labels = constant_images(32)
    out, _, _, ratio = jitted_mix(images, labels, jax.random.key(0), BOTH)
    values = np.array([len(np.unique(image)) for image in np.asarray(out)])
    assert (values[:8] == 1).all()  # mixup of constants is constant
    inside = (ratio[8:] > 0) & (ratio[8:] < 1)
    assert (values[8:] == 1 + inside).all()


@pytest.mark.parametrize(
    "config",
    [
        *(plain_augment(mixing=mixing) for mixing in MIXINGS),
        plain_augment(mixing="timm_batch", mixup_alpha=0.2, mix_rate=0.0),
    ],
)
def test_without_mixing_images_pass_through(config):
    images, labels = constant_images(3)
    out, first, second, ratio = mixing.mix(images, labels, jax.random.key(0), config)
    np.testing.assert_array_equal(out, images)
    np.testing.assert_array_equal(first, labels)
    np.testing.assert_array_equal(second, labels)
    np.testing.assert_array_equal(ratio, np.ones(3))


def test_mixup_ratio_has_the_moments_of_beta():
    alpha = 0.2
    ratio = np.asarray(mixing_draws.sample_beta(jax.random.key(1), 10_000, alpha))
    # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)).
    assert ratio.mean() == pytest.approx(0.5, abs=0.02)
    assert ratio.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.005)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_beta_of_one_is_uniform(alpha):
    """Quantiles of U(0, 1) are themselves; those of Beta(0.2, 0.2) are not."""
    draws = np.asarray(mixing_draws.sample_beta(jax.random.key(1), 10_000, alpha))
    far = max(abs(np.quantile(draws, q) - q) for q in (0.1, 0.3, 0.5, 0.7, 0.9))
    assert (far < 0.02) == (alpha == 1)


def test_cutmix_area_has_the_official_law():
    count, size = 10_000, 32
    sample = jax.jit(mixing_draws.sample_cutmix_mask, static_argnums=(1, 2, 3, 4))
    mask = sample(jax.random.key(2), count, size, size, 1.0)
    share = np.asarray(mask.mean(axis=(1, 2, 3)))
    # The same law by hand from independent draws: half-sides h = int(32 sqrt(u)) // 2
    # with u ~ U(0, 1), a uniform centre, clipped.
    rng = np.random.default_rng(0)
    half = (np.sqrt(rng.random(count)) * size).astype(int) // 2
    sides = []
    for _ in range(2):
        centre = rng.integers(0, size, count)
        sides.append(np.minimum(centre + half, size) - np.maximum(centre - half, 0))
    expected = sides[0] * sides[1] / size**2
    assert share.mean() == pytest.approx(expected.mean(), abs=0.01)
    for q in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.quantile(share, q) == pytest.approx(
            np.quantile(expected, q), abs=0.02
        )


def test_odd_batch_of_nfnets_is_refused_only_for_both():
    mixing.check_mixing(BOTH, 4)
    mixing.check_mixing(dataclasses.replace(BOTH, cutmix_alpha=0.0), 3)
    with pytest.raises(UserError, match=r"3 images per device.*even"):
        mixing.check_mixing(BOTH, 3)
    images, labels = constant_images(6)
    with pytest.raises(UserError, match=r"3 images per device.*even"):
        mixing.mix(images, labels, jax.random.key(0), BOTH)


@pytest.mark.parametrize("form", IN_PLACE)
def test_odd_batch_mixed_with_itself_is_refused(form):
    config = plain_augment(mixing=form, mixup_alpha=0.2)
    mixing.check_mixing(config, 4)
    mixing.check_mixing(dataclasses.replace(config, mixup_alpha=0.0), 3)
    with pytest.raises(UserError, match=rf"3 images per device.*{form}.*even"):
        mixing.check_mixing(config, 3)


@pytest.mark.parametrize("form", IN_PLACE)
def test_only_nfnets_augment_what_is_mixed(form):
    with pytest.raises(UserError, match=rf"augment_before_mix is False.*{form}"):
        check_augment(plain_augment(mixing=form, augment_before_mix=False))


@pytest.mark.parametrize("form", ["nfnet", "effnetv2"])
def test_only_timm_mixes_now_and_then(form):
    check_augment(plain_augment(mixing="timm_pair", mix_rate=0.5))
    with pytest.raises(UserError, match=rf"mix_rate is 0\.5.*{form} always"):
        check_augment(plain_augment(mixing=form, mix_rate=0.5))
    check_augment(plain_augment(mixing="timm_pair", cutmix_rate=0.9))
    with pytest.raises(UserError, match=rf"cutmix_rate is 0\.9.*{form} halves"):
        check_augment(plain_augment(mixing=form, cutmix_rate=0.9))


def test_every_form_has_a_mixer():
    assert tuple(mixing.MIXERS) == MIXINGS


def test_nfnets_mixing_doubles_the_images_read():
    assert mixing.partners(NO_MIXING) == 1
    assert mixing.partners(dataclasses.replace(NO_MIXING, mixup_alpha=0.2)) == 2
    assert mixing.partners(dataclasses.replace(NO_MIXING, cutmix_alpha=1.0)) == 2
    for form in IN_PLACE:
        assert mixing.partners(dataclasses.replace(BOTH, mixing=form)) == 1


@pytest.mark.parametrize("form", IN_PLACE)
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.5, 0.0), (0.0, 1.0), (0.5, 1.0)])
def test_batch_mixed_with_itself_keeps_what_each_image_weighs(form, mixup, cutmix):
    """Image i and image 15 - i: their shares of the pixels are the labels'."""
    values = jnp.arange(16, dtype=jnp.int32) * 16
    images = jnp.broadcast_to(values[:, None, None, None], (16, 12, 12, 3))
    config = plain_augment(mixing=form, mixup_alpha=mixup, cutmix_alpha=cutmix)
    mixed = jitted_mix(images.astype(jnp.uint8), values, jax.random.key(5), config)
    out, first, second, ratio = (np.asarray(part) for part in mixed)
    assert (out.shape, out.dtype) == ((16, 12, 12, 3), np.float32)
    np.testing.assert_array_equal(first, values)
    half = 16 if form != "effnetv2" or 0 in (mixup, cutmix) else 8
    np.testing.assert_array_equal(second, first.reshape(-1, half)[:, ::-1].ravel())
    means = ratio * first + (1 - ratio) * second
    if form == "effnetv2" and cutmix:  # one weight for all boxes: right on average
        cut = slice(8 if mixup else 0, 16)
        own = (first[cut, None] == out[cut, :, :, 0].reshape(-1, 144)).mean()
        assert own == pytest.approx(ratio[cut].mean(), rel=1e-6)
        assert len(set(ratio[cut].tolist())) == 1
        out, means = out[: cut.start], means[: cut.start]
    rounding = 0.5 if form != "effnetv2" and mixup else 0
    np.testing.assert_allclose(
        out.mean(axis=(1, 2, 3)), means, rtol=1e-5, atol=rounding + 1e-4
    )


def test_normalize_by_hand():
    pixel = jnp.array([[[[255, 0, 128]]]], jnp.uint8)
    expected = [
        (1 - 0.485) / 0.229,
        -0.456 / 0.224,
        (128 / 255 - 0.406) / 0.225,
    ]
    out = normalize(pixel)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out[0, 0, 0], expected, rtol=1e-6)
    # EfficientNetV2 by its code's formulas: training and evaluation, fine-tuning.
    out = normalize(pixel, "effnetv2")
    np.testing.assert_allclose(out[0, 0, 0], [127 / 128, -1, 0], rtol=1e-6)
    out = normalize(pixel, "inception")
    np.testing.assert_allclose(out[0, 0, 0], [1, -1, 128 / 127.5 - 1], rtol=1e-5)
