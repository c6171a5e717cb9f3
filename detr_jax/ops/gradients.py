"""Sums over all gradients and barriers between them, for what the optimizer does with many arrays at once."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from detr_jax.structures import Array


def global_norm(arrays: Mapping[str, Float[Array, "..."]]) -> Float[Array, ""]:
    """The Euclidean norm of all arrays together.

    The barrier prevents one reduction per array, which on a GPU is a launch for each vector and two for each matrix.
    """
    squares = [jnp.square(array) for array in arrays.values()]
    sums = [jnp.sum(values, axis=-1) if values.ndim > 1 else values for values in squares]
    return jnp.sqrt(jnp.sum(lax.optimization_barrier(jnp.concatenate(sums, axis=None))))


def global_norm_definition(arrays: Mapping[str, Float[Array, "..."]]) -> Float[Array, ""]:
    """What ``global_norm`` computes."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(array)) for array in arrays.values()))


def materialize(arrays: Mapping[str, Float[Array, "..."]]) -> Mapping[str, Float[Array, "..."]]:
    """The same arrays. On a CPU each is computed before anything that depends on it.

    So the optimizer updates moments and parameters in place; XLA would compute the new moments a second time, for the
    parameters, from copies of the old ones.
    """
    separately = partial(jax.tree.map, lax.optimization_barrier)
    return lax.platform_dependent(arrays, cpu=separately, default=lambda arrays: arrays)


def materialize_definition(arrays: Mapping[str, Float[Array, "..."]]) -> Mapping[str, Float[Array, "..."]]:
    """What ``materialize`` computes."""
    return arrays
