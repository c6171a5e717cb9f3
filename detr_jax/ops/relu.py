"""ReLU, alone and after the sum of a residual block, with gradients that keep only the result."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from detr_jax.structures import Array


@jax.custom_vjp
def relu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """max(x, 0). The gradient tests the result, which the next layer keeps anyway, so no mask is stored."""
    return jnp.maximum(x, 0)


def relu_definition(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """What ``relu`` computes."""
    return jax.nn.relu(x)


@jax.custom_vjp
def relu_of_sum(x: Float[Array, "*b"], y: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """relu(x + y), the end of a residual block; equal to the last bit for a finite ``y``.

    On a CPU, max(x, -y) + y stops XLA from recomputing the chain of residual blocks wherever the result is used.
    """
    return lax.platform_dependent(
        x, y, cpu=lambda x, y: jnp.maximum(x, -y) + y, default=lambda x, y: jnp.maximum(x + y, 0)
    )


def relu_of_sum_definition(x: Float[Array, "*b"], y: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """What ``relu_of_sum`` computes."""
    return jax.nn.relu(x + y)


def _keep_result(result):
    # The barrier prevents rematerialisation, for which XLA would keep the inputs as well.
    result = lax.optimization_barrier(result)
    return result, result


def _backward(result, gradient):
    return jnp.where(result > 0, gradient, 0)


relu.defvjp(lambda x: _keep_result(relu(x)), lambda result, gradient: (_backward(result, gradient),))
relu_of_sum.defvjp(
    lambda x, y: _keep_result(relu_of_sum(x, y)), lambda result, gradient: (_backward(result, gradient),) * 2
)
