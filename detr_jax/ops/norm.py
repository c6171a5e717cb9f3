"""Layer norm with a closed-form gradient."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float

from detr_jax.structures import Array


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "*b D"], scale: Float[Array, " D"], bias: Float[Array, " D"], epsilon: float
) -> Float[Array, "*b D"]:
    """Normalises the last axis, then scales and shifts it; statistics are float32, the result has the dtype of ``x``.

    The gradient is the closed form; JAX would differentiate through the variance, then through the mean.
    """
    return _forward(x, scale, bias, epsilon)[0]


def layer_norm_definition(
    x: Float[Array, "*b D"], scale: Float[Array, " D"], bias: Float[Array, " D"], epsilon: float
) -> Float[Array, "*b D"]:
    """What ``layer_norm`` computes."""
    wide = x.astype(jnp.float32)
    normal = (wide - _mean(wide)) / jnp.sqrt(jnp.var(wide, axis=-1, keepdims=True) + epsilon)
    return (normal * _as_row(scale, x.ndim) + _as_row(bias, x.ndim)).astype(x.dtype)


def _mean(values):
    return jnp.mean(values, axis=-1, keepdims=True)


def _as_row(vector, ndim: int):
    """[D] -> [1 ... 1 D] with so many axes."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


def _forward(x, scale, bias, epsilon):
    mean = _mean(x.astype(jnp.float32))
    inverse = jax.lax.rsqrt(_mean(jnp.square(x - mean)) + epsilon)
    normed = (x - mean) * (inverse * _as_row(scale, x.ndim)) + _as_row(bias, x.ndim)
    return normed.astype(x.dtype), (x, mean, inverse, scale)


def _backward(_, residuals, gradient):
    x, mean, inverse, scale = residuals
    normal, gradient = (x - mean) * inverse, gradient.astype(jnp.float32)
    scaled = gradient * _as_row(scale, x.ndim)
    x_gradient = inverse * (scaled - _mean(scaled) - normal * _mean(scaled * normal))
    rows = tuple(range(x.ndim - 1))
    return x_gradient.astype(x.dtype), jnp.sum(gradient * normal, axis=rows), jnp.sum(gradient, axis=rows)


layer_norm.defvjp(_forward, _backward)
