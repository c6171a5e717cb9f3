"""Matrix products of linear layers, with the kernel's gradient in the kernel's own layout."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from detr_jax.structures import Array


@jax.custom_vjp
def matmul(x: Float[Array, "*b D"], kernel: Float[Array, "D E"]) -> Float[Array, "*b E"]:
    """``x @ kernel``, with a gradient of the kernel that the optimizer reads without a transpose."""
    return x @ kernel


def matmul_definition(x: Float[Array, "*b D"], kernel: Float[Array, "D E"]) -> Float[Array, "*b E"]:
    """What ``matmul`` computes."""
    return x @ kernel


def _matmul_backward(inputs, gradient):
    # JAX emits the kernel's gradient transposed; undoing that copies the parameter and its moments.
    x, kernel = inputs
    rows = tuple(range(x.ndim - 1))  # not flattened: that would force an all-gather of the images
    return gradient @ kernel.T, lax.dot_general(x, gradient, ((rows, rows), ((), ())))


matmul.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _matmul_backward)


def project(
    x: Float[Array, "*b D"], kernels: Sequence[Float[Array, "D E"]], biases: Sequence[Float[Array, " E"]]
) -> list[Float[Array, "*b E"]]:
    """``x @ kernel + bias`` for each pair, in the dtype of ``x``; all pairs share one matrix product."""
    kernel = jnp.concatenate(kernels, axis=-1).astype(x.dtype)
    bias = jnp.concatenate(biases).astype(x.dtype)
    result = matmul(x, kernel) + bias.reshape((1,) * (x.ndim - 1) + bias.shape)
    return jnp.split(result, len(kernels), axis=-1)


def project_definition(
    x: Float[Array, "*b D"], kernels: Sequence[Float[Array, "D E"]], biases: Sequence[Float[Array, " E"]]
) -> list[Float[Array, "*b E"]]:
    """What ``project`` computes."""
    pairs = zip(kernels, biases, strict=True)
    return [x @ kernel.astype(x.dtype) + jnp.broadcast_to(bias, (*x.shape[:-1], bias.size)).astype(x.dtype)
            for kernel, bias in pairs]  # fmt: skip
