"""Multi-head attention with dropout of its weights, and a gradient of it that rarely reads the large arrays."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Bool, Float

from detr_jax.models.layers import linear, together
from detr_jax.structures import Array


def _mixed(x: jax.Array) -> jax.Array:
    """32 bits in which each bit of ``x`` shows (Wellons' lowbias32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def dropout(x: Float[Array, "*b"], rate: float, key: jax.Array | None) -> Float[Array, "*b"]:
    """Zeroes each element with probability ``rate`` and scales the rest; the identity without a key.

    The random bits are a hash of the element's number and the key. Unlike those of a generator they melt into the
    arithmetic around them, forwards and backwards: no array of bits is written, and every device draws its own part.
    """
    return x if key is None or rate == 0.0 else _dropped(x, rate, key)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dropped(x, rate, key):
    first, second = jax.random.key_data(key)[:2]
    number, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        number += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    kept = _mixed(_mixed(number ^ first) + second) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(kept, x * (1 / (1 - rate)), 0)


# The gradient is dropped where the value was: the bits are drawn again, so no mask is kept.
_dropped.defvjp(lambda x, rate, key: (_dropped(x, rate, key), key), lambda rate, key, g: (_dropped(g, rate, key), None))


def split_key(key: jax.Array | None, count: int):
    """``count`` keys, or as many times None."""
    return [None] * count if key is None else jax.random.split(key, count)


def _product(a, b, a_axis: int, b_axis: int):
    """Sum over an axis of each, for every image and head."""
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((0, 1), (0, 1))))


def attend(
    q: Float[Array, "B A Q E"],
    k: Float[Array, "B A S E"],
    v: Float[Array, "B A S E"],
    bias: Float[Array, "#B #A #Q S"] | None,
    dropout_key: jax.Array | None,
    dropout_rate: float,
) -> Float[Array, "B A Q E"]:
    """softmax(q k + bias) v, with dropout of the weights; the softmax is float32.

    Its gradient is written out for one sum: over the keys, of weights times their gradients. That is the product of
    the output and its gradient (Dao et al. 2022), which is a hundredth of the size; XLA's sum was half of the backward
    pass on a CPU. Weights are kept once, not before and after dropout, and of the bias nothing.
    """
    like_bias = None if bias is None else jax.ShapeDtypeStruct(bias.shape, bias.dtype)
    return _attended(q, k, v, bias, dropout_key, dropout_rate, like_bias)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attended(q, k, v, bias, dropout_key, dropout_rate, like_bias):
    return _attended_forward(q, k, v, bias, dropout_key, dropout_rate, like_bias)[0]


def _attended_forward(q, k, v, bias, dropout_key, dropout_rate, like_bias):
    logits = _product(q, k, 3, 3).astype(jnp.float32)
    weights = jax.nn.softmax(logits if bias is None else logits + bias).astype(v.dtype)
    # The bits wait for the weights; or XLA draws those of all layers at the start and keeps them until the end.
    weights, drawn = lax.optimization_barrier((weights, dropout_key))
    output = _product(dropout(weights, dropout_rate, drawn), v, 3, 2)
    return output, (q, k, v, dropout_key, weights, output)


def _attended_backward(dropout_rate, like_bias, kept, gradient):
    q, k, v, dropout_key, weights, output = kept
    gradient, dropout_key = lax.optimization_barrier((gradient, dropout_key))  # and here for the gradient
    of_v = _product(gradient, dropout(weights, dropout_rate, dropout_key), 2, 2).swapaxes(2, 3)
    of_weights = dropout(_product(gradient, v, 3, 3), dropout_rate, dropout_key).astype(jnp.float32)
    total = jnp.sum(gradient.astype(jnp.float32) * output.astype(jnp.float32), axis=-1, keepdims=True)
    of_logits = weights.astype(jnp.float32) * (of_weights - total)
    of_bias = None
    if like_bias is not None:
        shared = [axis for axis in range(4) if like_bias.shape[axis] == 1 and of_logits.shape[axis] > 1]
        of_bias = jnp.sum(of_logits, axis=shared, keepdims=True).astype(like_bias.dtype)
    of_logits = of_logits.astype(q.dtype)
    of_q, of_k = _product(of_logits, k, 3, 2), _product(q, of_logits, 2, 2).swapaxes(2, 3)
    return of_q, of_k, of_v, of_bias, None


_attended.defvjp(_attended_forward, _attended_backward)


class Attention(nnx.Module):
    """Multi-head attention; softmax in float32."""

    def __init__(self, width: int, heads: int, dropout_rate: float, *, dtype, rngs: nnx.Rngs):
        self.heads, self.dropout_rate = heads, dropout_rate
        # torch keeps query, key and value in one 3D x D tensor, and Xavier's bound counts all of it.
        packed, single = math.sqrt(6 / (4 * width)), math.sqrt(6 / (2 * width))
        self.query = linear(width, width, bound=packed, zero_bias=True, dtype=dtype, rngs=rngs)
        self.key = linear(width, width, bound=packed, zero_bias=True, dtype=dtype, rngs=rngs)
        self.value = linear(width, width, bound=packed, zero_bias=True, dtype=dtype, rngs=rngs)
        self.out = linear(width, width, bound=single, zero_bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        queries: Float[Array, "B Q D"],
        keys: Float[Array, "B S D"] | None,
        values: Float[Array, "B S D"],
        key_valid: Bool[Array, "B S"] | None = None,
        bias: Float[Array, "#B #A Q S"] | None = None,
        dropout_key: jax.Array | None = None,
    ) -> Float[Array, "B Q D"]:
        """Attends to the valid keys; ``bias`` is added to the logits. Without ``keys`` they are the queries."""

        def split_heads(x):  # [B n D] -> [B A n D/A]
            return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)

        q, k = together(queries, self.query, self.key) if keys is None else (self.query(queries), self.key(keys))
        q, k, v = split_heads(q), split_heads(k), split_heads(self.value(values))
        if key_valid is not None:  # finite, so that a row without any valid key is uniform instead of NaN
            hidden = jnp.where(key_valid, 0.0, jnp.finfo(jnp.float32).min)[:, None, None, :]
            bias = hidden if bias is None else bias + hidden
        attended = attend(q * (q.shape[-1] ** -0.5), k, v, bias, dropout_key, self.dropout_rate)
        return self.out(attended.swapaxes(1, 2).reshape(*queries.shape))
