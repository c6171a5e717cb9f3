"""Linear layers and layer norm with torch's defaults, ReLU, the perceptron of boxes and positions, running a layer."""

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


def _row(vector, ndim: int):
    """[E] -> [1 ... 1 E] of so many axes."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


class Linear(nnx.Linear):
    """A linear layer, computed by ``together``."""

    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b E"]:
        return together(x, self)[0]


def together(x: Float[Array, "*b D"], *layers: Linear) -> list[Float[Array, "*b E"]]:
    """What each of these layers, of one width, makes of ``x``, from one product."""
    dtype = layers[0].dtype
    kernel = jnp.concatenate([layer.kernel[...] for layer in layers], axis=-1).astype(dtype)
    bias = jnp.concatenate([layer.bias[...] for layer in layers]).astype(dtype)
    made = _product(x.astype(dtype), kernel)
    return jnp.split(made + _row(bias, x.ndim), len(layers), axis=-1)


@jax.custom_vjp
def _product(x, kernel):
    return x @ kernel


def _product_backward(kept, gradient):
    # JAX would make the kernel's gradient transposed and turn it. XLA turns it where the optimizer reads it, and for
    # that copies parameter and moments.
    x, kernel = kept
    rows = tuple(range(x.ndim - 1))  # as they are: flattened, images would leave their devices
    return gradient @ kernel.T, jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())))


_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


def linear(fan_in: int, fan_out: int, *, dtype, rngs, bound: float | None = None, zero_bias: bool = False) -> Linear:
    """A linear layer with torch's default start, +-1/sqrt(fan_in), or a given ``bound`` for the kernel."""
    default = symmetric_uniform(1 / math.sqrt(fan_in))
    return Linear(
        fan_in,
        fan_out,
        kernel_init=default if bound is None else symmetric_uniform(bound),
        bias_init=nnx.initializers.zeros_init() if zero_bias else default,
        dtype=dtype,
        rngs=rngs,
    )


class LayerNorm(nnx.LayerNorm):
    """Layer norm with statistics in float32, whatever ``dtype`` is."""

    def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
        return _normed(x.astype(self.dtype), self.scale[...], self.bias[...], self.epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _normed(x, scale, bias, epsilon):
    return _normed_forward(x, scale, bias, epsilon)[0]


def _mean(values):
    return jnp.mean(values, axis=-1, keepdims=True)


def _normed_forward(x, scale, bias, epsilon):
    mean = _mean(x.astype(jnp.float32))
    inverse = jax.lax.rsqrt(_mean(jnp.square(x - mean)) + epsilon)
    normed = (x - mean) * (inverse * _row(scale, x.ndim)) + _row(bias, x.ndim)
    return normed.astype(x.dtype), (x, mean, inverse, scale)


def _normed_backward(_, kept, gradient):
    # Both means are of what is at hand; JAX's gradient goes back through the variance, then through the mean.
    x, mean, inverse, scale = kept
    standard, gradient = (x - mean) * inverse, gradient.astype(jnp.float32)
    scaled = gradient * _row(scale, x.ndim)
    of_x = inverse * (scaled - _mean(scaled) - standard * _mean(scaled * standard))
    rows = tuple(range(x.ndim - 1))
    return of_x.astype(x.dtype), jnp.sum(gradient * standard, axis=rows), jnp.sum(gradient, axis=rows)


_normed.defvjp(_normed_forward, _normed_backward)


def layer_norm(width: int, *, dtype, rngs) -> LayerNorm:
    """Layer norm with torch's epsilon."""
    return LayerNorm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)


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
