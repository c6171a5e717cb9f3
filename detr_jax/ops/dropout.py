"""Dropout whose random bits are a hash, computed where they are used."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, UInt32

from detr_jax.structures import Array


def dropout(x: Float[Array, "*b"], rate: float, key: jax.Array | None) -> Float[Array, "*b"]:
    """Zeroes each element with probability ``rate`` and scales the rest by 1 / (1 - rate); the identity without a key.

    The random bits are a hash of the element's index and the key. XLA fuses them into the arithmetic around them,
    forwards and backwards: no array of bits is written, and every device draws the bits of its own shard.
    """
    return x if key is None or rate == 0.0 else _drop(x, rate, key)


def dropout_definition(x: Float[Array, "*b"], rate: float, key: jax.Array | None) -> Float[Array, "*b"]:
    """What ``dropout`` computes."""
    return x if key is None else jnp.where(draw_kept(x.shape, rate, key), x / (1 - rate), 0).astype(x.dtype)


def draw_kept(shape: tuple[int, ...], rate: float, key: jax.Array) -> Bool[Array, "*b"]:
    """True for the elements that ``dropout`` keeps."""
    first, second = jax.random.key_data(key)[:2]
    index, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        index += lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return _hash(_hash(index ^ first) + second) >= jnp.uint32(round(rate * 2**32))


def split_key(key: jax.Array | None, count: int):
    """``count`` keys, or ``count`` times None for no key."""
    return [None] * count if key is None else jax.random.split(key, count)


def _hash(x: UInt32[Array, "*b"]) -> UInt32[Array, "*b"]:
    """A hash in which every bit of ``x`` matters (lowbias32 of Chris Wellons)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _drop(x, rate, key):
    return jnp.where(draw_kept(x.shape, rate, key), x * (1 / (1 - rate)), 0)


# The backward pass draws the same bits again, so no mask is stored.
_drop.defvjp(lambda x, rate, key: (_drop(x, rate, key), key), lambda rate, key, g: (_drop(g, rate, key), None))
