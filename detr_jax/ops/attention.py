"""Attention weights and their use, with a memory-efficient custom gradient."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from detr_jax.ops.dropout import dropout
from detr_jax.structures import Array


def attend(
    q: Float[Array, "B A Q E"],
    k: Float[Array, "B A S E"],
    v: Float[Array, "B A S E"],
    bias: Float[Array, "#B #A #Q S"] | None,
    dropout_key: jax.Array | None,
    dropout_rate: float,
) -> Float[Array, "B A Q E"]:
    """softmax(q k + bias) v, with dropout of the weights; the softmax is float32.

    The softmax's gradient needs, for each query, the sum over keys of weight times gradient. It equals the product of
    the output and its gradient (Dao et al. 2022, arXiv:2205.14135), which is a hundredth of the size. The weights are
    stored once, before dropout, and nothing is stored of the bias.
    """
    bias_like = None if bias is None else jax.ShapeDtypeStruct(bias.shape, bias.dtype)
    return _attend(q, k, v, bias, dropout_key, dropout_rate, bias_like)


def attention_weights(
    q: Float[Array, "B A Q E"], k: Float[Array, "B A S E"], bias: Float[Array, "#B #A #Q S"] | None
) -> Float[Array, "B A Q S"]:
    """softmax(q k + bias) in float32: the weights that ``attend`` gives to the keys of each query, before dropout."""
    logits = _contract(q, k, 3, 3).astype(jnp.float32)
    return jax.nn.softmax(logits if bias is None else logits + bias)


def attend_definition(
    q: Float[Array, "B A Q E"],
    k: Float[Array, "B A S E"],
    v: Float[Array, "B A S E"],
    bias: Float[Array, "#B #A #Q S"] | None,
    dropout_key: jax.Array | None,
    dropout_rate: float,
) -> Float[Array, "B A Q E"]:
    """What ``attend`` computes."""
    weights = jax.nn.softmax((q @ k.mT).astype(jnp.float32) + (0.0 if bias is None else bias)).astype(v.dtype)
    return dropout(weights, dropout_rate, dropout_key) @ v


def _contract(a, b, a_axis: int, b_axis: int):
    """Sums the product over one axis of each, for every image and head."""
    return lax.dot_general(a, b, (((a_axis,), (b_axis,)), ((0, 1), (0, 1))))


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(q, k, v, bias, dropout_key, dropout_rate, bias_like):
    return _forward(q, k, v, bias, dropout_key, dropout_rate, bias_like)[0]


def _forward(q, k, v, bias, dropout_key, dropout_rate, bias_like):
    weights = attention_weights(q, k, bias).astype(v.dtype)
    # The barrier delays the dropout bits until the weights exist; XLA would draw all layers' bits first and keep them.
    weights, delayed_key = lax.optimization_barrier((weights, dropout_key))
    output = _contract(dropout(weights, dropout_rate, delayed_key), v, 3, 2)
    return output, (q, k, v, dropout_key, weights, output)


def _backward(dropout_rate, bias_like, residuals, gradient):
    q, k, v, dropout_key, weights, output = residuals
    gradient, dropout_key = lax.optimization_barrier((gradient, dropout_key))  # delays the bits here too
    v_gradient = _contract(gradient, dropout(weights, dropout_rate, dropout_key), 2, 2).swapaxes(2, 3)
    weight_gradient = dropout(_contract(gradient, v, 3, 3), dropout_rate, dropout_key).astype(jnp.float32)
    total = jnp.sum(gradient.astype(jnp.float32) * output.astype(jnp.float32), axis=-1, keepdims=True)
    logit_gradient = weights.astype(jnp.float32) * (weight_gradient - total)
    bias_gradient = None
    if bias_like is not None:
        broadcast = [axis for axis in range(4) if bias_like.shape[axis] == 1 and logit_gradient.shape[axis] > 1]
        bias_gradient = jnp.sum(logit_gradient, axis=broadcast, keepdims=True).astype(bias_like.dtype)
    logit_gradient = logit_gradient.astype(q.dtype)
    q_gradient = _contract(logit_gradient, k, 3, 2)
    k_gradient = _contract(q, logit_gradient, 2, 2).swapaxes(2, 3)
    return q_gradient, k_gradient, v_gradient, bias_gradient, None


_attend.defvjp(_forward, _backward)
