"""Comparison of a function that brings its own gradient with its one-line definition, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np

# The largest difference, as a part of the largest number of the reference. float32: a few roundings of a sum. bfloat16:
# the reference is float32, so one rounding of the result and those inside (2**-8 each).
BOUNDS = {"float32": 2e-6, "bfloat16": 2**-6}


def assert_equals_definition(function, definition, inputs, dtype: str, bound: float | None = None, seed: int = 0):
    """Values, and the gradients of all inputs, are those of the definition in float32; dtypes are the inputs'.

    ``inputs`` is a list of arrays in ``dtype`` (what passes through the function) or float32 (its parameters).
    """
    bound = BOUNDS[dtype] if bound is None else bound
    found, pull = jax.vjp(function, *inputs)
    wide = [jnp.asarray(array, jnp.float32) for array in inputs]
    wanted, pull_wanted = jax.vjp(definition, *wide)
    rng = np.random.default_rng(seed)
    cotangent = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), dtype).astype(x.dtype), found)
    gradients = pull(cotangent)
    wanted_gradients = pull_wanted(jax.tree.map(lambda x, like: x.astype(like.dtype), cotangent, wanted))
    assert [gradient.dtype for gradient in gradients] == [array.dtype for array in inputs]
    pairs = zip(jax.tree.leaves((found, gradients)), jax.tree.leaves((wanted, wanted_gradients)), strict=True)
    for mine, reference in pairs:
        assert mine.shape == reference.shape
        scale = max(float(jnp.abs(reference).max()), 1e-30)
        np.testing.assert_allclose(np.asarray(mine, np.float32), reference, rtol=0, atol=bound * scale)


def normal(seed: int, shape, dtype="float32", mean: float = 0.0) -> jax.Array:
    """Random normal numbers."""
    return jnp.asarray(mean + np.random.default_rng(seed).normal(size=shape), dtype)
