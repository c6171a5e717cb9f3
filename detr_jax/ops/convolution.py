"""Convolutions padded symmetrically with zeros, and gradients of them for XLA's CPU compiler, whose own are slow."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Float

from detr_jax.structures import Array


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def convolve(
    x: Float[Array, "B h w C"],
    kernel: Float[Array, "k k C C2"],
    scale: Float[Array, " C2"] | None = None,
    stride: int = 1,
    dilation: int = 1,
) -> Float[Array, "B h2 w2 C2"]:
    """A convolution padded symmetrically with zeros, each channel of its result times ``scale``, in ``x``'s dtype.

    ``scale`` is a constant: it gets no gradient. On a GPU or TPU it goes into the kernel: what then is left to add and
    cut off happens while the product is written, and its gradient is no pass over the map. On a CPU, whose products
    end in memory anyway, it multiplies the map on the way to whatever comes next, and the kernel's gradient is a matrix
    product for each row of the kernel: XLA's own takes up to three times as long.
    """
    after = partial(_scaled_after, stride=stride, dilation=dilation)
    inside = partial(_scaled_inside, stride=stride, dilation=dilation)
    return lax.platform_dependent(x, kernel, scale, cpu=after, default=inside)


def _scaled(values, scale):
    return values if scale is None else values * scale.astype(values.dtype)[None, None, None]


def _scaled_after(x, kernel, scale, stride, dilation):
    return _scaled(_convolve(x, kernel.astype(x.dtype), stride, dilation), scale)


def _scaled_inside(x, kernel, scale, stride, dilation):
    return _convolve(x, _scaled(kernel, scale).astype(x.dtype), stride, dilation)


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
    starts = [index * dilation for index in range(size)]
    columns = [x[:, :, left : left + stride * (w - 1) + 1 : stride] for left in starts]
    # Without the barrier XLA would lay them side by side for each row anew.
    x = lax.optimization_barrier(jnp.concatenate(columns, axis=-1))
    return [x[:, top : top + stride * (h - 1) + 1 : stride] for top in starts]


def _kernel_gradient(x, gradient, size, stride, dilation):
    channels_in, channels_out = x.shape[-1], gradient.shape[-1]
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


def _backward_after(x, kernel, scale, gradient, stride, dilation):
    gradient = _scaled(gradient, scale)
    _, pull_x = jax.vjp(lambda x: _convolve(x, kernel.astype(x.dtype), stride, dilation), x)
    return *pull_x(gradient), _kernel_gradient(x, gradient, kernel.shape[0], stride, dilation).astype(kernel.dtype)


def _backward_inside(x, kernel, scale, gradient, stride, dilation):
    return jax.vjp(lambda x, kernel: _scaled_inside(x, kernel, scale, stride, dilation), x, kernel)[1](gradient)


def _convolve_backward(stride, dilation, inputs, gradient):
    after = partial(_backward_after, stride=stride, dilation=dilation)
    inside = partial(_backward_inside, stride=stride, dilation=dilation)
    return *lax.platform_dependent(*inputs, gradient, cpu=after, default=inside), None


convolve.defvjp(
    lambda x, kernel, scale, stride, dilation: (convolve(x, kernel, scale, stride, dilation), (x, kernel, scale)),
    _convolve_backward,
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
        of_kernel = partial(convolve, stride=self.stride, dilation=self.dilation)
        if self.is_trained_stem:
            return lax.platform_dependent(x, self.kernel[...], scale, cpu=self._of_patches, default=of_kernel)
        return of_kernel(x, self.kernel[...], scale)

    def _of_patches(self, x, kernel, scale):
        """The same without dilation, as a matrix product: XLA's CPU weight gradient of the stem is 8 times slower."""
        patches = jnp.concatenate(_beneath(x, kernel.shape[0], self.stride, 1), axis=-1)
        return _scaled(patches @ kernel.astype(x.dtype).reshape(-1, kernel.shape[-1]), scale)
