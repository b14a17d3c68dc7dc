"""What depends on the weights alone, computed once instead of in every call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax import Array
from jax.export import is_symbolic_dim
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

# By the name of a primitive: computes the same from its operands and parameters.
Replacements = Mapping[str, Callable[..., Array]]


def fold_variables(
    function: Callable[[Any, Any], Array],
    variables: Any,
    images: Any,
    replacements: Replacements,
) -> Callable[[Any], Array]:
    """``function(variables, .)`` with the results of all its work on variables inside.

    That work is weight standardisation, BatchNorm's factors, a resized position
    embedding. Left in, XLA does it while it compiles, slower than by running it: of
    NFNet-F0 the compilation takes twice as long.

    Args:
      function: (variables, images) -> one array, without side effects.
      variables: a tree of arrays.
      images: shape and dtype of the images; dimensions may be symbolic.
      replacements: for operations on images that are to be written otherwise; may be
        empty.

    Returns:
      The function of images of that shape; it can be traced, not differentiated.
    """
    traced = jax.make_jaxpr(function)(variables, images)
    jaxpr = traced.jaxpr
    constants, image = [*jaxpr.constvars, *jaxpr.invars[:-1]], jaxpr.invars[-1]
    early, late = _split(jaxpr.eqns, constants)
    made_late = {image, *(v for equation in late for v in equation.outvars)}
    read = _read_by(late)
    kept = [variable for variable in read if variable not in made_late]
    compute = jax.jit(_part(jaxpr, early, constants, kept))
    values = jax.device_get(compute(*traced.consts, *jax.tree.leaves(variables)))
    inside = dict(zip(kept, values, strict=True))
    return lambda x: _run(jaxpr, late, {**inside, image: x}, replacements)


def _run(
    jaxpr: Any,
    equations: Sequence[Any],
    found: dict[Any, Any],
    replacements: Replacements,
) -> Array:
    """The result of a program, equation by equation; ``found``: values by variable."""
    needed = _read_by(equations) | _variables_in(jaxpr.outvars)
    for equation in equations:
        operands = [*_variables_in(equation.invars)]
        results = [variable for variable in equation.outvars if variable in needed]
        compute = _part(jaxpr, [equation], operands, results)
        if replacement := replacements.get(equation.primitive.name):
            compute = functools.partial(_as_list, replacement, equation.params)
        outputs = compute(*(found[operand] for operand in operands))
        found.update(zip(results, outputs, strict=True))
    return found[jaxpr.outvars[0]]


def _split(equations: Iterable[Any], constants: Iterable[Any]) -> tuple[list, list]:
    """The equations that follow from ``constants`` alone, and the others."""
    known, early, late = set(constants), [], []
    for equation in equations:
        operands = _variables_in(equation.invars)
        # What has no operand stays: it may be the number of the platform.
        if operands and operands.keys() <= known and _has_one_shape(equation):
            early.append(equation)
            known.update(equation.outvars)
        else:
            late.append(equation)
    return early, late


def _has_one_shape(equation: Any) -> bool:
    """Whether no result is as long as the batch, whose size is not known."""
    sizes = [size for result in equation.outvars for size in result.aval.shape]
    return not any(is_symbolic_dim(size) for size in sizes)


def _part(
    jaxpr: Any, equations: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Callable[..., list[Any]]:
    """The function from inputs to outputs that some of the equations compute."""
    part = jaxpr.replace(constvars=[], invars=inputs, eqns=equations, outvars=outputs)
    return jaxpr_as_fun(ClosedJaxpr(part, ()))


def _as_list(function: Callable[..., Array], params: Any, *operands: Any) -> list[Any]:
    return [function(*operands, **params)]


def _read_by(equations: Iterable[Any]) -> dict[Any, None]:
    return _variables_in(atom for equation in equations for atom in equation.invars)


def _variables_in(atoms: Iterable[Any]) -> dict[Any, None]:
    """Each once, in order."""
    return {atom: None for atom in atoms if not isinstance(atom, Literal)}
