"""What families share: convolutions by backend, pooling, squeeze-excite, probes.

Nothing here belongs to one paper. Arrays are NHWC, kernels HWIO, parameters float32.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

ConvForm = Literal["native", "split", "dense", "shifted", "matmul", "by_platform"]
Padding = str | tuple[tuple[int, int], ...]

# The probes of a network are sown here; see `sow_probe`.
SIGNAL = "signal"

# Narrower groups are merged to this many channels; see `_split_conv2d`. 32 runs fastest
# on CPU, 64 compiles twice as fast and runs 1.6 times as long.
_MIN_SPLIT_WIDTH = 32

_forced_form: contextvars.ContextVar[ConvForm | None] = contextvars.ContextVar(
    "forced_form", default=None
)


def backend() -> str:
    """The platform that code traced now is meant for: ``cpu``, ``gpu`` or ``tpu``."""
    return jax.default_backend()


@contextlib.contextmanager
def force_conv_form(form: ConvForm) -> Iterator[None]:
    """Makes every `conv2d` traced inside take ``form``, whatever the backend.

    For counting operations (`nfnets.flops`) and for export to other platforms.
    """
    token = _forced_form.set(form)
    try:
        yield
    finally:
        _forced_form.reset(token)


def choose_conv_form(kernel: Array, in_channels: int, groups: int) -> ConvForm:
    """The fastest form of a convolution on the present backend.

    XLA's CPU backend runs grouped convolutions 3x (forward) to 30x (gradient of the
    kernel) slower than the same work split by groups, depthwise ones 30-70x slower
    than shifted multiply-adds, and 1 x 1 ones slower than a matrix product: they alone
    make a whole network's gradient 1.2 to 1.5x slower (docs/benchmarks.md).
    """
    forced = _forced_form.get()
    if forced is not None:
        return forced
    return _cpu_form(kernel, in_channels, groups) if backend() == "cpu" else "native"


def _cpu_form(kernel: Array, in_channels: int, groups: int) -> ConvForm:
    if groups == 1:
        return "matmul" if kernel.shape[:2] == (1, 1) else "native"
    return "shifted" if groups == in_channels else "split"


def conv2d(
    x: Array,
    kernel: Array,
    *,
    strides: int = 1,
    padding: Padding = "SAME",
    groups: int = 1,
    form: ConvForm | None = None,
) -> Array:
    """Two-dimensional convolution, computed in the form that suits the backend.

    Args:
      x: images or features, [N, H, W, C].
      kernel: [kh, kw, C / groups, D], of the dtype of ``x``.
      strides: step in both directions.
      padding: ``SAME``, ``VALID`` or (before, after) pixels for H and for W.
      groups: number of channel groups; ``C`` makes the convolution depthwise.
      form: ``native`` (one XLA convolution), ``split`` (one per group), ``dense`` (one
        without groups, whose kernel is 0 between them), ``shifted`` (depthwise: a
        multiply-add per kernel tap), ``matmul`` (1 x 1 kernels), or ``by_platform``,
        one of them for each platform that it is lowered for; None chooses by backend.
        Where a form does not apply, the native one is taken. All give the same values
        and gradients up to rounding.

    Returns:
      [N, H', W', D].
    """
    if form is None:
        form = choose_conv_form(kernel, x.shape[-1], groups)
    if form == "shifted" and groups > 1 and groups == x.shape[-1]:
        return _shifted_conv2d(x, kernel, strides, padding)
    if form == "split" and groups > 1:
        return _split_conv2d(x, kernel, strides, padding, groups)
    if form == "dense" and groups > 1:
        dense = _block_diagonal(kernel, groups)
        return _native_conv2d(x, dense, strides, padding, 1)
    if form == "by_platform":
        return _conv2d_by_platform(x, kernel, strides, padding, groups)
    is_pointwise = kernel.shape[:2] == (1, 1) and isinstance(padding, str)
    if form == "matmul" and groups == 1 and is_pointwise:
        return _pointwise_conv2d(x, kernel, strides)
    return _native_conv2d(x, kernel, strides, padding, groups)


def _native_conv2d(
    x: Array, kernel: Array, strides: int, padding: Padding, groups: int
) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(strides, strides),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _conv2d_by_platform(
    x: Array, kernel: Array, strides: int, padding: Padding, groups: int
) -> Array:
    """The CPU's form where the program runs on CPUs, the native one elsewhere."""
    native = functools.partial(
        conv2d, strides=strides, padding=padding, groups=groups, form="native"
    )
    cpu_form = _cpu_form(kernel, x.shape[-1], groups)
    if cpu_form == "native":
        return native(x, kernel)
    on_cpu = functools.partial(native, form=cpu_form)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=native)


def _pointwise_conv2d(x: Array, kernel: Array, strides: int) -> Array:
    """1 x 1 convolution as a matrix product; neither SAME nor VALID pads here."""
    x = x[:, ::strides, ::strides]
    return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))


# Traced once for all convolutions of equal shapes, and inlined by the compiler.
@functools.partial(jax.jit, static_argnames=("strides", "padding", "groups"))
def _split_conv2d(
    x: Array, kernel: Array, strides: int, padding: Padding, groups: int
) -> Array:
    """One dense convolution per group, or per few groups where they are narrow.

    Many tiny convolutions are slow to compile and to run, so narrow groups are merged
    into one block-diagonal kernel: more multiplications, by zero, but less time.
    """
    *_, group_in, features = kernel.shape
    group_out = features // groups
    merge = max(1, _MIN_SPLIT_WIDTH // group_in)
    outputs = []
    for first in range(0, groups, merge):
        last = min(first + merge, groups)
        x_part = x[..., first * group_in : last * group_in]
        part = kernel[..., first * group_out : last * group_out]
        part = _block_diagonal(part, last - first)
        outputs.append(_native_conv2d(x_part, part, strides, padding, 1))
    return jnp.concatenate(outputs, axis=-1)


def _block_diagonal(kernel: Array, groups: int) -> Array:
    """Grouped kernel [kh, kw, I, g * O] -> dense kernel [kh, kw, g * I, g * O]."""
    if groups == 1:
        return kernel
    kh, kw, group_in, features = kernel.shape
    blocks = kernel.reshape(kh, kw, 1, group_in, groups, features // groups)
    diagonal = jnp.eye(groups, dtype=bool).reshape(1, 1, groups, 1, groups, 1)
    dense = jnp.where(diagonal, blocks, 0)  # [kh, kw, g, I, g, O]
    return dense.reshape(kh, kw, groups * group_in, features)


@functools.partial(jax.jit, static_argnames=("strides", "padding"))
def _shifted_conv2d(x: Array, kernel: Array, strides: int, padding: Padding) -> Array:
    """Depthwise convolution as a sum over kernel taps of shifted, scaled images."""
    kh, kw, _, features = kernel.shape
    pads = _explicit_pads(x.shape[1:3], (kh, kw), strides, padding)
    channels = x.shape[-1]
    # Output channel d reads input channel d // (D / C).
    x = jnp.repeat(x, features // channels, axis=-1) if features > channels else x
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height = (x.shape[1] - kh) // strides + 1
    width = (x.shape[2] - kw) // strides + 1
    total = jnp.zeros((x.shape[0], height, width, features), jnp.float32)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i, i + (height - 1) * strides + 1, strides)
            columns = slice(j, j + (width - 1) * strides + 1, strides)
            total = total + x[:, rows, columns] * kernel[i, j, 0].reshape(1, 1, 1, -1)
    return total.astype(x.dtype)


def _explicit_pads(
    size: Sequence[int], window: Sequence[int], strides: int, padding: Padding
) -> list[tuple[int, int]]:
    """Padding pixels (before, after) for H and for W."""
    if isinstance(padding, str):
        return list(lax.padtype_to_pads(size, window, (strides, strides), padding))
    return list(padding)


def avg_pool_same(x: Array, window: int, strides: int) -> Array:
    """Average pooling with SAME padding that divides by the pixels really there.

    [N, H, W, C] -> [N, ceil(H / strides), ceil(W / strides), C]. Matters for odd H, W.
    """
    pads = _explicit_pads(x.shape[1:3], (window, window), strides, "SAME")
    sums = nn.pool(x, 0.0, lax.add, (window, window), (strides, strides), pads)
    rows, columns = (
        np.convolve(np.pad(np.ones(size), pad), np.ones(window), "valid")[::strides]
        for size, pad in zip(x.shape[1:3], pads, strict=True)
    )
    pixels = np.outer(rows, columns)[None, :, :, None]  # [1, H', W', 1]
    return sums / jnp.asarray(pixels, x.dtype)


def linear_init(
    key: Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> Array:
    """Haiku's default for linear layers: normal cut at 2 std, std = 1/sqrt(fan_in)."""
    init = nn.initializers.truncated_normal(stddev=math.prod(shape[:-1]) ** -0.5)
    # Drawn flat: XLA takes three times as long to compile draws of more dimensions.
    return init(key, (math.prod(shape),), dtype).reshape(shape)


def zero_init(fan_in: int) -> Callable[..., Array]:
    """Biases that start at 0, whatever their layer's fan-in."""
    del fan_in
    return nn.initializers.zeros


class SqueezeExcite(nn.Module):
    """Channel gate from globally pooled features (SE-Nets; NFNets, Appendix C).

    [N, H, W, C] -> [N, 1, 1, features], values in (0, 1); the caller multiplies.
    ``activation`` is that of the hidden layer; ``bias_init`` gives the initialiser of
    the biases for a layer's fan-in.
    """

    hidden: int
    features: int
    dtype: DTypeLike = jnp.float32
    activation: Callable[[Array], Array] = nn.relu
    kernel_init: Callable[..., Array] = linear_init
    bias_init: Callable[[int], Callable[..., Array]] = zero_init

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns the gate."""
        h = jnp.mean(x, axis=(1, 2))  # [N, C]
        h = self.activation(self._dense(self.hidden, "reduce", h))
        h = nn.sigmoid(self._dense(self.features, "expand", h))
        return h[:, None, None, :]  # [N, 1, 1, features]

    def _dense(self, features: int, name: str, h: Array) -> Array:
        dense = nn.Dense(
            features,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init(h.shape[-1]),
            name=name,
        )
        return dense(h)


def call_block(
    block: nn.Module, x: Array, *, train: bool, remat: bool
) -> tuple[Array, Array]:
    """What ``block(x, train=train)`` returns.

    With ``remat`` only its input is kept for the gradient, and the block runs again
    there (Chen et al., 1604.06174): as many more multiply-adds as a forward pass has,
    for the memory of what is inside the blocks.
    """

    def call(block: nn.Module, x: Array) -> tuple[Array, Array]:
        return block(x, train=train)

    return (nn.remat(call) if remat else call)(block, x)


class StochasticDepth(nn.Module):
    """Drops the residual branch of single examples in training (Huang et al., 2016).

    As in the official NFNets, survivors are not rescaled by 1 / (1 - rate), so the
    expectation differs between training and evaluation; with ``rescale`` they are, as
    in EfficientNet. Rate 0 draws nothing.
    """

    rate: float
    rescale: bool = False

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """[N, ...] -> the same shape, zeros in the dropped examples."""
        if not train or self.rate == 0.0:
            return x
        key = self.make_rng("stochastic_depth")
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = jax.random.bernoulli(key, 1.0 - self.rate, shape).astype(x.dtype)
        return x * (kept / (1.0 - self.rate) if self.rescale else kept)


def sow_probe(module: nn.Module, name: str, value: Callable[[], Array]) -> None:
    """Stores ``value()`` as ``name`` in the collection `SIGNAL`, if someone asked.

    ``value`` is only called under ``apply(..., mutable=["signal"])``.
    """
    if module.is_mutable_collection(SIGNAL) and not module.is_initializing():
        module.sow(
            SIGNAL, name, value(), init_fn=lambda: None, reduce_fn=lambda _, new: new
        )
