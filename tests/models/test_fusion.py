"""The finer memory: each token on its four cells, padding that does not matter."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from detr_jax.models.fusion import FinerMemory


def test_finer_memory_lays_each_token_on_its_four_cells():
    """Without the features and the mixing only the tokens are left, normed twice."""
    finer = FinerMemory(8, 4, dtype=jnp.float32, rngs=nnx.Rngs(0))
    for layer in (finer.lateral, finer.out):
        layer.kernel[...], layer.bias[...] = jnp.zeros_like(layer.kernel), jnp.zeros_like(layer.bias)
    tokens = np.random.default_rng(0).normal(size=(1, 2, 3, 8)).astype(np.float32)
    found = finer(tokens, np.zeros((1, 3, 5, 4), np.float32), np.array([[3, 5]], np.int32))
    for row, column in np.ndindex(3, 5):
        token = tokens[0, row // 2, column // 2]
        np.testing.assert_allclose(found[0, row, column], (token - token.mean()) / token.std(), atol=1e-3)
