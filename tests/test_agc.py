"""Adaptive gradient clipping against optax, the paper's formula, and its promises."""

import doctest
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfnets.agc
from nfnets.agc import adaptive_grad_clip, default_unit_axes, unitwise_norm

SHAPES = {
    "scalar": (),
    "bias": (7,),
    "dense": (5, 9),
    "heads": (3, 5, 9),
    "conv": (3, 3, 8, 16),
    "conv3d": (2, 3, 3, 4, 8),
    "one_row": (1, 1, 1, 8),
    "pointwise": (1, 1, 6, 4),
    "zeros": (4, 4),
}


def random_tree(seed, scale, dtype=jnp.float32):
    rng = np.random.RandomState(seed)
    return {
        name: jnp.asarray(rng.standard_normal(shape) * scale, dtype)
        for name, shape in SHAPES.items()
    }


@pytest.fixture(scope="module")
def params():
    return random_tree(0, 1.0) | {"zeros": jnp.zeros((4, 4))}


@pytest.mark.parametrize("scale", [1e-3, 0.02, 0.1, 10.0])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("options", [{}, {"axis": -1}], ids=["default", "axis"])
def test_equals_optax_to_the_last_bit(params, scale, wrap, options):
    shapes_fit = {k: v for k, v in params.items() if "axis" not in options or v.ndim}
    grads = {k: v for k, v in random_tree(1, scale).items() if k in shapes_fit}
    theirs = optax.adaptive_grad_clip(0.01, 1e-3, **options)
    ours = adaptive_grad_clip(0.01, 1e-3, **options)
    want, _ = wrap(theirs.update)(grads, theirs.init(shapes_fit), shapes_fit)
    got, _ = wrap(ours.update)(grads, ours.init(shapes_fit), shapes_fit)
    chex.assert_trees_all_equal(got, want)


def test_hand_calculation():
    """Two output channels of norm 5 and 1 under lambda 0.1: bounds 0.5 and 0.1."""
    params = {"w": jnp.array([[3.0, 1.0], [4.0, 0.0]])}
    grads = {"w": jnp.array([[6.0, 0.03], [8.0, 0.04]])}
    tx = adaptive_grad_clip(0.1)
    clipped, state = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(clipped["w"], [[0.3, 0.03], [0.4, 0.04]], rtol=1e-6)
    assert float(state.clipped) == 0.5


def test_norm_is_bounded_and_clipping_twice_changes_nothing(params):
    grads = random_tree(1, 5.0)
    tx = adaptive_grad_clip(0.05)
    once, _ = tx.update(grads, tx.init(params), params)
    for name, grad in once.items():
        axes = default_unit_axes((), grad)
        bound = 0.05 * np.maximum(unitwise_norm(params[name], axes), 1e-3)
        assert np.all(unitwise_norm(grad, axes) <= bound * (1 + 1e-6))
    twice, _ = tx.update(once, tx.init(params), params)
    chex.assert_trees_all_close(twice, once, rtol=1e-6)


def test_bfloat16_norms_are_float32():
    """A sum of 4096 ones is 256 in bfloat16 arithmetic; the norm must be 64."""
    ones = jnp.ones((4096,), jnp.bfloat16)
    norm = unitwise_norm(ones, 0)
    assert norm.dtype == jnp.float32
    assert float(norm[0]) == 64.0
    tx = adaptive_grad_clip(0.5)
    clipped, _ = tx.update({"w": 10 * ones}, tx.init({"w": ones}), {"w": ones})
    assert clipped["w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(clipped["w"], np.float32), 0.5, rtol=4e-3)


def test_unit_axes_by_leaf_and_any_rank():
    params = {"stacked": jnp.ones((2, 3, 3, 4, 5, 6)), "b": jnp.ones(3)}
    grads = jax.tree.map(lambda p: 7.0 * p, params)

    def unit_axes(path, leaf):
        return (1, 2, 3, 4) if leaf.ndim == 6 else (0,)

    tx = adaptive_grad_clip(0.01, unit_axes=unit_axes)
    clipped, state = tx.update(grads, tx.init(params), params)
    norms = unitwise_norm(clipped["stacked"], (1, 2, 3, 4))
    assert norms.shape == (2, 1, 1, 1, 1, 6)
    np.testing.assert_allclose(norms, 0.01 * np.sqrt(3 * 3 * 4 * 5), rtol=1e-5)
    assert float(state.clipped) == 1.0


def test_rank_six_without_axes_names_the_leaf():
    params = {"layer": {"odd": jnp.ones((2,) * 6)}}
    with pytest.raises(ValueError, match=r"\['layer'\]\['odd'\].*\(2, 2, 2, 2, 2, 2\)"):
        adaptive_grad_clip(0.01).init(params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clipping": 0.0}, "clipping must be positive"),
        ({"clipping": "0.01"}, "clipping must be positive, got '0.01'"),
        ({"unit_axes": (0, 1)}, "unit_axes must be a function"),
        ({"eps": -1.0}, "eps must be positive"),
        ({"axis": 0, "unit_axes": default_unit_axes}, "not both"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        adaptive_grad_clip(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"axis": 2}, {"axis": "a"}, {"unit_axes": lambda path, leaf: None}],
)
def test_axes_that_a_leaf_has_not_are_refused_at_init(arguments):
    tx = adaptive_grad_clip(0.01, **arguments)
    with pytest.raises(ValueError, match=r"\['w'\] with shape \(3, 4\).*-2 to 1"):
        tx.init({"w": jnp.ones((3, 4))})


def test_axes_may_be_numpys_integers():
    tx = adaptive_grad_clip(0.01, axis=np.int64(0))
    assert float(tx.init({"w": jnp.ones((3, 4))}).clipped) == 0.0


def test_update_without_params_says_what_to_pass():
    tx = adaptive_grad_clip()
    with pytest.raises(ValueError, match=r"update\(grads, state, params\)"):
        tx.update({"w": jnp.ones(2)}, tx.init({"w": jnp.ones(2)}))


def test_mask_leaves_a_leaf_alone():
    params = {"head": jnp.ones((4, 2)), "body": jnp.ones((4, 2))}
    grads = jax.tree.map(lambda p: 100 * p, params)
    tx = adaptive_grad_clip(0.01, mask={"head": False, "body": True})
    clipped, state = tx.update(grads, tx.init(params), params)
    chex.assert_trees_all_equal(clipped["head"], grads["head"])
    np.testing.assert_allclose(clipped["body"], 0.01, rtol=1e-6)
    assert float(state.inner_state.clipped) == 1.0


def test_fraction_counts_units_not_leaves():
    """Of 16 output channels and one bias, 3 channels exceed their bound: 3 of 17."""
    params = {"conv": jnp.ones((3, 3, 8, 16)), "bias": jnp.ones(16)}
    grads = {
        "conv": jnp.full((3, 3, 8, 16), 1e-3).at[..., :3].set(1.0),
        "bias": jnp.full(16, 1e-3),
    }
    tx = adaptive_grad_clip(0.01)
    _, state = jax.jit(tx.update)(grads, tx.init(params), params)
    np.testing.assert_allclose(state.clipped, 3 / 17, rtol=1e-6)


def test_docstring_example_runs():
    results = doctest.testmod(nfnets.agc)
    assert results.attempted > 5
    assert results.failed == 0


def test_import_loads_neither_flax_nor_tensorflow():
    code = (
        "import sys, nfnets.agc; "
        "sys.exit(bool({'flax', 'tensorflow', 'ml_collections'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
