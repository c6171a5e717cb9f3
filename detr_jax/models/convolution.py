"""Convolutions padded symmetrically with zeros, and gradients of them for XLA's CPU compiler, whose own are slow."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Float

from detr_jax.structures import Array


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: Float[Array, "B h w C"], kernel: Float[Array, "k k C C2"], stride: int = 1, dilation: int = 1
) -> Float[Array, "B h2 w2 C2"]:
    """A convolution padded symmetrically with zeros.

    On a CPU the gradient of its kernel is a matrix product for each row of the kernel: XLA's own takes up to three
    times as long.
    """
    return _convolve(x, kernel, stride, dilation)


def _convolve(x, kernel, stride, dilation):
    if kernel.shape[0] == 1:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    margin = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(margin, margin)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _beneath(x, size: int, stride: int, dilation: int, outside: jax.Array | float = 0.0) -> list[jax.Array]:
    """For each row of a kernel of this size the values [B h2 w2 k*C] that it is multiplied with."""
    margin = dilation * (size // 2)
    h, w = (-(-side // stride) for side in x.shape[1:3])
    x = jnp.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)], constant_values=outside)

    def cell(i, j):
        top, left = i * dilation, j * dilation
        return x[:, top : top + stride * (h - 1) + 1 : stride, left : left + stride * (w - 1) + 1 : stride]

    return [jnp.concatenate([cell(i, j) for j in range(size)], axis=-1) for i in range(size)]


def _kernel_gradient(x, kernel, gradient, stride, dilation):
    size, _, channels_in, channels_out = kernel.shape
    columns = gradient.reshape(-1, channels_out)

    def of_row(row):
        row = row.reshape(columns.shape[0], -1)
        if min(512, row.shape[1]) <= channels_out:
            return row.T @ columns
        # XLA's CPU products are a third slower when the right side is narrow; without the barrier it turns this back.
        return lax.optimization_barrier(columns.T @ row).T

    # A zero that is known only now: with a constant these copies would be made in the forward pass and kept until here.
    zero = 0 * gradient[0, 0, 0, 0]
    rows = [of_row(row) for row in _beneath(x, size, stride, dilation, zero)]
    return jnp.stack(rows).reshape(size, size, channels_in, channels_out)


def _convolve_backward(stride, dilation, inputs, gradient):
    x, kernel = inputs
    _, pull_x = jax.vjp(lambda x: _convolve(x, kernel, stride, dilation), x)

    def native(x, kernel, gradient):
        return jax.vjp(lambda kernel: _convolve(x, kernel, stride, dilation), kernel)[1](gradient)[0]

    on_cpu = partial(_kernel_gradient, stride=stride, dilation=dilation)
    return *pull_x(gradient), lax.platform_dependent(x, kernel, gradient, cpu=on_cpu, default=native)


convolve.defvjp(
    lambda x, kernel, stride, dilation: (_convolve(x, kernel, stride, dilation), (x, kernel)), _convolve_backward
)


class Conv(nnx.Module):
    """A convolution without bias, padded symmetrically (Flax's 'SAME' shifts stride-2 windows on even sizes)."""

    def __init__(self, channels_in, channels_out, size, stride=1, dilation=1, *, kind=nnx.Param, rngs: nnx.Rngs):
        self.stride, self.dilation = stride, dilation
        self.is_trained_stem = channels_in == 3 and dilation == 1 and kind is nnx.Param
        fan_out_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # torchvision's
        self.kernel = kind(fan_out_normal(rngs.params(), (size, size, channels_in, channels_out)))

    def __call__(
        self, x: Float[Array, "B h w C"], scale: Float[Array, " C2"] | None = None
    ) -> Float[Array, "B h2 w2 C2"]:
        """The convolution, each channel of its result times ``scale``."""
        kernel = self.kernel[...]
        kernel = (kernel if scale is None else kernel * scale[None, None, None]).astype(x.dtype)
        if self.is_trained_stem:
            native = partial(convolve, stride=self.stride)
            return lax.platform_dependent(x, kernel, cpu=self._of_patches, default=native)
        return convolve(x, kernel, self.stride, self.dilation)

    def _of_patches(self, x, kernel):
        """The same without dilation, as a matrix product: XLA's CPU weight gradient of the stem is 8 times slower."""
        patches = jnp.concatenate(_beneath(x, kernel.shape[0], self.stride, 1), axis=-1)
        return patches @ kernel.reshape(-1, kernel.shape[-1])
