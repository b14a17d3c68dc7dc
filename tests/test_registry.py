"""Models by name, and what is said when the name or a field is wrong."""

from __future__ import annotations

import subprocess
import sys

import jax.numpy as jnp
import pytest

from nfnets.errors import UserError
from nfnets.registry import FAMILIES, create_model, get_variant, list_models


def test_list_models_is_sorted_and_filters():
    names = list_models()
    assert names == sorted(set(names))
    assert list_models("nfnet_f?") == [f"nfnet_f{i}" for i in range(8)]
    assert list_models("nf_regnet_*") == [f"nf_regnet_b{i}" for i in range(9)]
    assert list_models("no such model") == []


def test_rows_of_the_papers_tables():
    f1 = get_variant("nfnet_f1")
    assert (f1.depths, f1.train_size, f1.eval_size) == ((2, 4, 12, 6), 224, 320)
    assert (f1.drop_rate, f1.stochastic_depth_rate) == (0.3, 0.25)
    assert f1.randaugment_magnitude == 10
    magnitudes = [get_variant(f"nfnet_f{i}").randaugment_magnitude for i in range(8)]
    assert magnitudes == [5, 10, 10, 15, 15, 15, 15, 15]
    plus = get_variant("nfnet_f3_plus")
    assert plus.widths == (384, 768, 2048, 2048)
    assert plus.depths == get_variant("nfnet_f3").depths
    assert get_variant("nf_regnet_b5").weight_decay == 1e-4
    assert get_variant("nf_regnet_b6").weight_decay is None
    assert get_variant("nf_resnet50").se_ratio is None
    assert get_variant("nf_seresnet50").se_ratio == 0.25
    assert get_variant("dm_resnet152").depths == (3, 8, 36, 3)
    assert get_variant("dm_resnet50_postact").stochastic_depth_rate == 0
    assert get_variant("fixup_resnet50").stochastic_depth_rate == 0.1


def test_overrides_replace_fields_of_the_row():
    model = create_model(
        "nfnet_f0", num_classes=10, dtype=jnp.bfloat16, drop_rate=0, depths=[1] * 4
    )
    assert model.variant.depths == (1, 1, 1, 1)
    assert model.drop_rate == 0
    assert model.dtype == jnp.bfloat16
    assert get_variant("nfnet_f0").depths == (1, 2, 6, 3)
    assert model.clone(drop_rate=0.1).drop_rate == 0.1


@pytest.mark.parametrize("name", ["nfnet_f9", "nfnet-f1", "NFNet_F1"])
def test_unknown_model_names_close_ones(name):
    with pytest.raises(UserError, match=rf"unknown model '{name}'.*nfnet_f"):
        create_model(name, num_classes=10)


def test_unknown_field_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"no field 'dropout'.*drop_rate"):
        create_model("nfnet_f0", num_classes=10, dropout=0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("depths", 3), ("depths", (1, 2.5)), ("activation", 1), ("se_ratio", "no")],
)
def test_ill_typed_field_is_refused(field, value):
    with pytest.raises(UserError, match=field):
        create_model("nf_seresnet50", num_classes=10, **{field: value})


def test_impossible_architectures_are_refused():
    with pytest.raises(UserError, match="group_size 128"):
        create_model("nfnet_f0", num_classes=10, widths=(64, 64, 64, 64))
    with pytest.raises(UserError, match="one number per stage"):
        create_model("nf_resnet50", num_classes=10, depths=(1, 1))
    with pytest.raises(UserError, match="stem_strides"):
        create_model("nfnet_f0", num_classes=10, stem_channels=(8,))
    with pytest.raises(UserError, match=r"unknown kind 'fixed'.*fixup"):
        create_model("dm_resnet50", num_classes=10, kind="fixed")
    with pytest.raises(UserError, match="num_classes"):
        create_model("nfnet_f0", num_classes=0)
    with pytest.raises(UserError, match=r"depths \(-1, 2, 6, 3\) should be positive"):
        create_model("nfnet_f0", num_classes=10, depths=(-1, 2, 6, 3))


def test_importing_the_registry_imports_no_family():
    code = "import sys, nfnets.registry; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(output.stdout.split())
    assert "nfnets.registry" in loaded
    assert not loaded & {*FAMILIES, "flax", "flax.linen", "optax", "tensorflow"}
