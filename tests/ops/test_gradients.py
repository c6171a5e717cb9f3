"""The norm of all gradients and the barrier against their definitions, and what the barriers are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.ops.gradients import global_norm, global_norm_definition, materialize, materialize_definition
from tests.ops.definitions import assert_equals_definition, normal

SHAPES = [(), (5,), (4, 6), (3, 3, 2, 8)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pair", [(global_norm, global_norm_definition), (materialize, materialize_definition)])
def test_definitions(pair, dtype):
    inputs = [normal(number, shape, dtype) for number, shape in enumerate(SHAPES)]
    functions = [lambda *arrays, of=of: of({str(n): array for n, array in enumerate(arrays)}) for of in pair]
    exact = pair[0] is materialize
    assert_equals_definition(*functions, inputs, dtype, bound=0.0 if exact else None)


def test_norm_by_numpy():
    arrays = {str(number): normal(number, shape) for number, shape in enumerate(SHAPES)}
    wanted = np.sqrt(sum(np.square(np.asarray(array, np.float64)).sum() for array in arrays.values()))
    np.testing.assert_allclose(global_norm(arrays), wanted, rtol=1e-6)


@pytest.mark.budget
def test_one_sum_over_all_arrays():
    """Matrices are summed to vectors, and all vectors at once: no sum to a scalar for each array."""
    arrays = {str(number): jax.ShapeDtypeStruct((32,), jnp.float32) for number in range(20)}
    text = jax.jit(global_norm).lower(arrays).as_text()
    assert text.count("stablehlo.reduce(") == 1 and text.count("optimization_barrier") == 1
