"""The max pool against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.ops.pool import max_pool, max_pool_definition
from tests.ops.definitions import assert_equals_definition


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("height, width", [(8, 12), (9, 7), (1, 2)])
def test_max_pool(height, width, dtype):
    """Without ties, where gradients may go elsewhere: 1, 2, 3, ... in another order, which bfloat16 tells apart."""
    count = height * width
    values = [np.random.default_rng(seed).permutation(count) + 1 for seed in range(4)]
    x = jnp.asarray(np.stack(values, axis=-1).reshape(1, height, width, 4), dtype)
    np.testing.assert_array_equal(max_pool(x), max_pool_definition(x))
    assert_equals_definition(max_pool, max_pool_definition, [x], dtype)


def test_ties_share_the_gradient():
    """The definition gives it to one cell; either way each maximum passes on all of it."""
    x = jnp.ones((1, 2, 2, 1))
    shared, whole = (jax.grad(lambda x, of=of: jnp.sum(of(x)))(x) for of in (max_pool, max_pool_definition))
    assert float(jnp.sum(shared)) == float(jnp.sum(whole)) == 1.0
    assert np.count_nonzero(shared) == 4 and np.count_nonzero(whole) == 1
