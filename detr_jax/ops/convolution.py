"""Convolutions with symmetric zero padding, and gradients of them that are fast on CPUs."""

from functools import partial

import jax
import jax.numpy as jnp
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
    """A convolution with symmetric zero padding, each output channel times ``scale``, in the dtype of ``x``.

    ``scale`` is a constant and gets no gradient. On a GPU or TPU it multiplies the kernel: then a shift and a ReLU fuse
    into the convolution, and the scale costs no pass over the map. On a CPU it multiplies the map, where it fuses into
    what comes next; there the kernel's gradient is one matrix product for each row of the kernel, up to three times
    faster than XLA's.
    """
    cpu = partial(_scale_output, stride=stride, dilation=dilation)
    default = partial(_scale_kernel, stride=stride, dilation=dilation)
    return lax.platform_dependent(x, kernel, scale, cpu=cpu, default=default)


def convolve_definition(
    x: Float[Array, "B h w C"],
    kernel: Float[Array, "k k C C2"],
    scale: Float[Array, " C2"] | None = None,
    stride: int = 1,
    dilation: int = 1,
) -> Float[Array, "B h2 w2 C2"]:
    """What ``convolve`` computes."""
    return _scale(_convolve(x, kernel.astype(x.dtype), stride, dilation, matmul_1x1=False), scale)


def convolve_stem(
    x: Float[Array, "B h w 3"], kernel: Float[Array, "k k 3 C2"], scale: Float[Array, " C2"] | None, stride: int
) -> Float[Array, "B h2 w2 C2"]:
    """``convolve`` for the trained stem of a backbone: on a CPU a matrix product of patches.

    XLA's own kernel gradient of three input channels is eight times slower there.
    """
    cpu, default = partial(_multiply_patches, stride=stride), partial(convolve, stride=stride)
    return lax.platform_dependent(x, kernel, scale, cpu=cpu, default=default)


def convolve_stem_definition(
    x: Float[Array, "B h w 3"], kernel: Float[Array, "k k 3 C2"], scale: Float[Array, " C2"] | None, stride: int
) -> Float[Array, "B h2 w2 C2"]:
    """What ``convolve_stem`` computes."""
    return convolve_definition(x, kernel, scale, stride)


def _scale(values, scale):
    return values if scale is None else values * scale.astype(values.dtype)[None, None, None]


def _scale_output(x, kernel, scale, stride, dilation):
    return _scale(_convolve(x, kernel.astype(x.dtype), stride, dilation), scale)


def _scale_kernel(x, kernel, scale, stride, dilation):
    return _convolve(x, _scale(kernel, scale).astype(x.dtype), stride, dilation)


def _convolve(x, kernel, stride, dilation, matmul_1x1=True):
    if kernel.shape[0] == 1 and matmul_1x1:
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


def _patches(x, size: int, stride: int, dilation: int, outside: jax.Array | float = 0.0) -> list[jax.Array]:
    """For each row of a kernel of this size, the inputs [B h2 w2 k*C] that it multiplies."""
    margin = dilation * (size // 2)
    h, w = (-(-side // stride) for side in x.shape[1:3])
    x = jnp.pad(x, [(0, 0), (margin, margin), (margin, margin), (0, 0)], constant_values=outside)
    starts = [index * dilation for index in range(size)]
    columns = [x[:, :, left : left + stride * (w - 1) + 1 : stride] for left in starts]
    # The barrier makes all rows share one concatenation; XLA would repeat it for each.
    x = lax.optimization_barrier(jnp.concatenate(columns, axis=-1))
    return [x[:, top : top + stride * (h - 1) + 1 : stride] for top in starts]


def _multiply_patches(x, kernel, scale, stride):
    patches = jnp.concatenate(_patches(x, kernel.shape[0], stride, 1), axis=-1)
    return _scale(patches @ kernel.astype(x.dtype).reshape(-1, kernel.shape[-1]), scale)


def _kernel_gradient(x, gradient, size, stride, dilation):
    channels_in, channels_out = x.shape[-1], gradient.shape[-1]
    columns = gradient.reshape(-1, channels_out)

    def multiply(patches):
        patches = patches.reshape(columns.shape[0], -1)
        if min(512, patches.shape[1]) <= channels_out:
            return patches.T @ columns
        # XLA's CPU products are a third slower with a narrow right side, so this one is transposed. The barrier keeps
        # XLA from undoing the transpose.
        return lax.optimization_barrier(columns.T @ patches).T

    # A runtime zero delays these copies until the backward pass; with a constant XLA makes and keeps them forwards.
    zero = 0 * gradient[0, 0, 0, 0]
    rows = [multiply(patches) for patches in _patches(x, size, stride, dilation, zero)]
    return jnp.stack(rows).reshape(size, size, channels_in, channels_out)


def _backward_of_scaled_output(x, kernel, scale, gradient, stride, dilation):
    gradient = _scale(gradient, scale)
    _, pull_x = jax.vjp(lambda x: _convolve(x, kernel.astype(x.dtype), stride, dilation), x)
    return *pull_x(gradient), _kernel_gradient(x, gradient, kernel.shape[0], stride, dilation).astype(kernel.dtype)


def _backward_of_scaled_kernel(x, kernel, scale, gradient, stride, dilation):
    return jax.vjp(lambda x, kernel: _scale_kernel(x, kernel, scale, stride, dilation), x, kernel)[1](gradient)


def _backward(stride, dilation, inputs, gradient):
    cpu = partial(_backward_of_scaled_output, stride=stride, dilation=dilation)
    default = partial(_backward_of_scaled_kernel, stride=stride, dilation=dilation)
    return *lax.platform_dependent(*inputs, gradient, cpu=cpu, default=default), None


convolve.defvjp(
    lambda x, kernel, scale, stride, dilation: (convolve(x, kernel, scale, stride, dilation), (x, kernel, scale)),
    _backward,
)
