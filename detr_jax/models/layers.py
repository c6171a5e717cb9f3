"""The layers that the model is made of, with the initial values of torch and torchvision."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Float, Int

from detr_jax.config_check import GROUPS
from detr_jax.models.padding import valid_cells
from detr_jax.ops.convolution import convolve, convolve_stem
from detr_jax.ops.linear import project
from detr_jax.ops.norm import layer_norm
from detr_jax.ops.relu import relu
from detr_jax.structures import Array


class Frozen(nnx.Variable):
    """An array that is never trained: those of batch norm, and all below the first trained stage of the backbone."""


@partial(jax.jit, static_argnames="remat")
def apply_layer(layer: nnx.Module, *inputs, remat: bool = False):
    """``layer(*inputs)``; with ``remat`` the backward pass recomputes its activations instead of storing them.

    The jit lets layers of equal settings and shapes share one trace, which halves the time to trace a model.
    """
    return (jax.checkpoint(layer) if remat else layer)(*inputs)


def symmetric_uniform(bound: float):
    """An initialiser: uniform in [-bound, bound]."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class Linear(nnx.Linear):
    """A linear layer. It starts uniform in +-1/sqrt(fan_in) as in torch, or its kernel in +-``bound``."""

    def __init__(
        self, fan_in: int, fan_out: int, *, bound: float | None = None, zero_bias: bool = False, dtype, rngs: nnx.Rngs
    ):
        default = symmetric_uniform(1 / math.sqrt(fan_in))
        super().__init__(
            fan_in,
            fan_out,
            kernel_init=default if bound is None else symmetric_uniform(bound),
            bias_init=nnx.initializers.zeros_init() if zero_bias else default,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b E"]:
        return apply_linears(x, self)[0]


def apply_linears(x: Float[Array, "*b D"], *layers: Linear) -> list[Float[Array, "*b E"]]:
    """The output of each of these layers of equal width, from one matrix product."""
    x = x.astype(layers[0].dtype)
    return project(x, [layer.kernel[...] for layer in layers], [layer.bias[...] for layer in layers])


class LayerNorm(nnx.LayerNorm):
    """Layer norm with torch's epsilon and float32 statistics."""

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        super().__init__(width, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        return layer_norm(x.astype(self.dtype), self.scale[...], self.bias[...], self.epsilon)


class Perceptron(nnx.Module):
    """Linear layers of these widths with ReLUs between; with ``zero_output`` the last layer starts at zero."""

    def __init__(self, *widths: int, zero_output: bool = False, dtype, rngs: nnx.Rngs):
        make = partial(Linear, dtype=dtype, rngs=rngs)
        *hidden, last = zip(widths, widths[1:], strict=False)
        layers = [make(*pair) for pair in hidden]
        layers.append(make(*last, bound=0.0, zero_bias=True) if zero_output else make(*last))
        self.layers = nnx.List(layers)

    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b E"]:
        for layer in self.layers[:-1]:
            x = relu(layer(x))
        return self.layers[-1](x)


class Conv(nnx.Module):
    """A convolution without bias and with symmetric zero padding (Flax's 'SAME' shifts stride-2 windows).

    ``kind`` is ``Frozen`` for a kernel that is never trained. Kernels start as in torchvision.
    """

    def __init__(self, channels_in, channels_out, size, stride=1, dilation=1, *, kind=nnx.Param, rngs: nnx.Rngs):
        self.stride, self.dilation = stride, dilation
        self.is_trained_stem = channels_in == 3 and dilation == 1 and kind is nnx.Param
        he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = kind(he_normal(rngs.params(), (size, size, channels_in, channels_out)))

    def __call__(
        self, x: Float[Array, "B h w C"], scale: Float[Array, " C2"] | None = None
    ) -> Float[Array, "B h2 w2 C2"]:
        """The convolution, each output channel times ``scale``, which is a constant."""
        if self.is_trained_stem:
            return convolve_stem(x, self.kernel[...], scale, self.stride)
        return convolve(x, self.kernel[...], scale, self.stride, self.dilation)


class FrozenBatchNorm(nnx.Module):
    """Batch norm with fixed statistics and affine values, which make it a scale and a shift."""

    def __init__(self, channels: int):
        self.scale = Frozen(jnp.ones(channels))
        self.bias = Frozen(jnp.zeros(channels))
        self.mean = Frozen(jnp.zeros(channels))
        self.var = Frozen(jnp.ones(channels))

    def scale_and_shift(self) -> tuple[Float[Array, " C"], Float[Array, " C"]]:
        """The norm of x is scale * x + shift."""
        scale = self.scale[...] * lax.rsqrt(self.var[...] + 1e-5)
        return scale, self.bias[...] - self.mean[...] * scale


class GroupNorm(nnx.Module):
    """Group norm over the real image only, in float32 (Wu & He 2018): mask heads, backbones trained from scratch."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]) -> Float[Array, "B h w C"]:
        batch, h, w, channels = x.shape
        groups = min(GROUPS, channels)
        # Sums over cells first, over the channels of a group last: twice as fast as a five-dimensional reduction.
        cells = x.astype(jnp.float32).reshape(batch, h * w, channels)
        valid = valid_cells(extent, h, w).reshape(batch, h * w)[..., None]
        count = jnp.maximum(jnp.sum(valid, axis=1) * (channels // groups), 1)  # [B 1]

        def mean_of_group(values):  # [B S C] -> [B 1 C]
            sums = jnp.sum(values, axis=1, where=valid).reshape(batch, groups, -1).sum(axis=-1)
            return jnp.repeat(sums / count, channels // groups, axis=1)[:, None]

        centered = cells - mean_of_group(cells)
        normal = (centered * lax.rsqrt(mean_of_group(jnp.square(centered)) + 1e-5)).reshape(x.shape)
        return (normal * self.scale[...][None, None, None] + self.bias[...][None, None, None]).astype(x.dtype)


NORMS = {"frozen_batch": FrozenBatchNorm, "group": GroupNorm}


def conv_then_norm(
    conv: Conv, norm: FrozenBatchNorm | GroupNorm, x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]
) -> Float[Array, "B h2 w2 C2"]:
    """norm(conv(x)); ``extent`` is that of the result. Frozen batch norm leaves its scale to the convolution."""
    if isinstance(norm, FrozenBatchNorm):
        scale, shift = norm.scale_and_shift()
        return conv(x, scale) + shift.astype(x.dtype)[None, None, None]
    return norm(conv(x), extent)
