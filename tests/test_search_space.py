"""The space of training-aware NAS: its size, its members, its moves."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from effnetv2.backbones import load_backbone
from effnetv2.block_strings import parse_stages
from effnetv2.search_space import (
    DECISIONS,
    backbone_genotype,
    encode,
    make_space,
    mutate,
    parse_genotype,
    sample,
    stage_choices,
)
from nfnets.errors import UserError
from nfnets.flops import count
from nfnets.registry import create_model

# Stem 8 -> 8 -> 16 -> 16: the first must stay, the last may vanish.
TINY = ("r1_k3_s1_e1_i8_o8_se0.25", "r2_k3_s2_e4_i8_o16_c1", "r1_k5_s1_e6_i16_o16_c1")


@pytest.fixture(scope="module")
def tiny():
    return make_space(TINY)


@pytest.fixture(scope="module")
def paper():
    return make_space(load_backbone("effnet_b4").stages)


def enumerate_space(space):
    """Every genotype of the space, once."""
    stages = range(len(space.backbone))
    return itertools.product(*(stage_choices(space, stage) for stage in stages))


def test_layers_are_the_backbones_and_one_more_or_less(tiny):
    # Stride 2 and the first stage stay; 1 - 1 layers is a stage that vanished.
    assert tiny.layers == ((1, 2), (1, 2, 3), (0, 1, 2))


def test_size_by_hand(tiny, paper):
    # 2 operators x 2 kernels x 3 expansions = 12 per number of layers, and 1 for none.
    assert tiny.size == (12 * 2) * (12 * 3) * (12 * 2 + 1)
    # B4 has 2, 4, 4, 6, 6, 8, 2 layers: three counts each, the fifth and last may go.
    assert paper.size == 36**5 * 37**2


def test_enumeration_gives_every_network_once(tiny):
    genotypes = list(enumerate_space(tiny))
    assert len(set(genotypes)) == len(genotypes) == tiny.size
    assert len({encode(tiny, genotype) for genotype in genotypes}) == tiny.size


def test_the_default_backbone_is_efficientnet_b4():
    backbone = load_backbone("effnet_b4")
    model = create_model(
        "effnet_b4", num_classes=1000, stages=backbone.stages, **backbone.overrides
    )
    # Parameters and multiply-adds of B4 at 380 px (paper: 19 M, 4.2 B).
    assert count(model, 380).params == 19_341_616
    assert round(count(model, 380).macs / 1e9, 2) == 4.39


def test_the_backbone_is_in_its_space_unchanged(paper):
    backbone = load_backbone("effnet_b4").stages
    assert encode(paper, backbone_genotype(paper)) == backbone


def test_where_a_stage_vanishes_the_channels_still_fit(paper):
    genotype = list(backbone_genotype(paper))
    for stage in (4, 6):
        genotype[stage] = dataclasses.replace(genotype[stage], layers=0)
    strings = encode(paper, tuple(genotype))
    parse_stages(strings)  # raises where two do not fit
    # 112 -> 160 -> 272 without the fifth stage is 112 -> 272.
    assert strings[4] == "r8_k5_s2_e6_i112_o272_se0.25"
    assert len(strings) == 5


def test_squeeze_excite_follows_the_operator(tiny):
    for genotype in itertools.islice(enumerate_space(tiny), 500):
        for stage in parse_stages(encode(tiny, genotype)):
            assert stage.se_ratio == (None if stage.fused else 0.25)


def test_every_sampled_network_can_be_made(paper):
    rng = np.random.default_rng(0)
    for _ in range(12):
        stages = encode(paper, sample(paper, rng))
        model = create_model("effnet_b4", num_classes=10, stages=stages, width=1.0)
        images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
        logits, _ = jax.eval_shape(
            lambda key, x, model=model: model.init_with_output(key, x, train=False),
            jax.random.key(0),
            images,
        )
        assert logits.shape == (1, 10)


def differing(before, after):
    """(stage, decision) pairs in which two genotypes differ."""
    return [
        (stage, decision)
        for stage, (a, b) in enumerate(zip(before, after, strict=True))
        for decision in DECISIONS
        if getattr(a, decision) != getattr(b, decision)
    ]


def test_a_mutation_changes_one_decision(paper):
    rng = np.random.default_rng(1)
    genotype, seen, vanished = backbone_genotype(paper), set(), 0
    for _ in range(600):
        child = mutate(paper, genotype, rng)
        changed = differing(genotype, child)
        seen.update(changed)
        if any(a.layers and not b.layers for a, b in zip(genotype, child, strict=True)):
            # What no longer is has no decisions: they are the backbone's again.
            vanished += 1
            assert len({stage for stage, _ in changed}) == 1
        else:
            assert len(changed) == 1
        encode(paper, child)
        genotype = child
    assert vanished > 0
    assert len(seen) == 7 * 4


def test_samples_are_uniform_in_every_decision(tiny):
    rng = np.random.default_rng(2)
    drawn = [sample(tiny, rng) for _ in range(3000)]
    share = np.mean([genotype[2].layers == 0 for genotype in drawn])
    assert share == pytest.approx(1 / 3, abs=0.03)  # of 0, 1, 2 layers
    share = np.mean([genotype[1].expansion == 6 for genotype in drawn])
    assert share == pytest.approx(1 / 3, abs=0.03)
    assert all(genotype in set(enumerate_space(tiny)) for genotype in drawn[:20])


def test_genotypes_are_read_back(tiny):
    for genotype in itertools.islice(enumerate_space(tiny), 0, tiny.size, 97):
        assert parse_genotype(tiny, [str(choice) for choice in genotype]) == genotype
    with pytest.raises(UserError, match=r"r9_k3_e1_c0.*stage 1"):
        parse_genotype(tiny, ["r9_k3_e1_c0", "r2_k3_e4_c1", "r1_k5_e6_c1"])
    with pytest.raises(UserError, match=r"1 choices.*3 stages"):
        parse_genotype(tiny, ["r1_k3_e1_c0"])


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("r1_k7_s1_e1_i8_o8_c1", "kernels"),
        ("r1_k3_s1_e3_i8_o8_c1", "expansions"),
        ("r1_k3_s1_e1_i8_o8", "se0.25 in MBConv"),
        ("r1_k3_s1_e1_i8_o8_se0.25_c1", "none in Fused"),
    ],
)
def test_a_backbone_outside_its_space_is_refused(stage, message):
    with pytest.raises(UserError, match=message):
        make_space([stage])


def test_backbones_come_from_names_and_files(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"stages": TINY, "overrides": {"stem_stride": 1}}))
    backbone = load_backbone(str(path))
    assert (backbone.name, backbone.model) == ("mine", "effnetv2_b0")
    assert backbone.stages == TINY
    for name in ("narrow", "effnetv2_b0", "effnet_b0"):
        make_space(load_backbone(name).stages)
    path.write_text("{}")
    with pytest.raises(UserError, match="expected"):
        load_backbone(str(path))
    with pytest.raises(UserError, match="did you mean effnet_b4"):
        load_backbone("efnet_b4")
    path.write_text(json.dumps({"stages": TINY, "model": "nfnet_f0"}))
    with pytest.raises(UserError, match="nfnet_f0"):
        load_backbone(str(path))
