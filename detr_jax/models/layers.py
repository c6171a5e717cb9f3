"""Linear layers and layer norm with torch's defaults, the perceptron of boxes and positions, running a layer."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from detr_jax.structures import Array


def symmetric_uniform(bound: float):
    """An initialiser: uniform in [-bound, bound]."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def linear(fan_in: int, fan_out: int, *, dtype, rngs, bound: float | None = None, zero_bias: bool = False):
    """A linear layer with torch's default start, +-1/sqrt(fan_in), or a given ``bound`` for the kernel."""
    default = symmetric_uniform(1 / math.sqrt(fan_in))
    return nnx.Linear(
        fan_in,
        fan_out,
        kernel_init=default if bound is None else symmetric_uniform(bound),
        bias_init=nnx.initializers.zeros_init() if zero_bias else default,
        dtype=dtype,
        rngs=rngs,
    )


def layer_norm(width: int, *, dtype, rngs) -> nnx.LayerNorm:
    """Layer norm with torch's epsilon; its statistics are float32 whatever ``dtype`` is."""
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)


@jax.custom_vjp
def relu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """max(x, 0). Its gradient asks where the result was positive, and the next layer keeps that anyway: no mask."""
    return jnp.maximum(x, 0)


@jax.custom_vjp
def relu_of_sum(x: Float[Array, "*b"], y: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """relu(x + y), the end of a residual block, to the last bit for a finite ``y``.

    A CPU is given another sum. To its compiler a maximum with 0 is so cheap that it makes it again wherever the result
    is used, and with it what all residual blocks before have added.
    """
    return jax.lax.platform_dependent(
        x, y, cpu=lambda x, y: jnp.maximum(x, -y) + y, default=lambda x, y: jnp.maximum(x + y, 0)
    )


def _kept(result):
    # Without the barrier XLA makes the result again wherever it is used, and keeps what it was made of as well.
    result = jax.lax.optimization_barrier(result)
    return result, result


def _passed(result, gradient):
    return jnp.where(result > 0, gradient, 0)


relu.defvjp(lambda x: _kept(relu(x)), lambda result, gradient: (_passed(result, gradient),))
relu_of_sum.defvjp(lambda x, y: _kept(relu_of_sum(x, y)), lambda result, gradient: (_passed(result, gradient),) * 2)


class Perceptron(nnx.Module):
    """Linear layers of these widths with ReLUs between; with ``silent`` the last one starts at zero."""

    def __init__(self, *widths: int, silent: bool = False, dtype, rngs: nnx.Rngs):
        pairs = list(zip(widths, widths[1:], strict=False))
        bounds = [None] * (len(pairs) - 1) + [0.0 if silent else None]
        self.layers = nnx.List(
            [
                linear(*pair, bound=bound, zero_bias=bound == 0.0, dtype=dtype, rngs=rngs)
                for pair, bound in zip(pairs, bounds, strict=True)
            ]
        )

    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b E"]:
        for layer in self.layers[:-1]:
            x = relu(layer(x))
        return self.layers[-1](x)


@partial(jax.jit, static_argnames="remat")
def run(layer: nnx.Module, *arguments, remat: bool = False):
    """What ``layer`` makes of these arguments; with ``remat`` it is computed again in the backward pass, not kept.

    Layers of the same settings and shapes are traced once, which is half of all tracing.
    """
    return (jax.checkpoint(layer) if remat else layer)(*arguments)
