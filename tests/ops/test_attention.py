"""Attention against its definition."""

from functools import partial

import jax
import numpy as np
import pytest

from detr_jax.ops.attention import attend, attend_definition
from tests.ops.definitions import assert_equals_definition, normal

BIASES = [None, (2, 1, 1, 7), (1, 3, 5, 7), (2, 3, 5, 7)]


@pytest.mark.parametrize("bias_shape", BIASES)
@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attend(bias_shape, rate, dtype):
    inputs = [normal(number, (2, 3, n, 4), dtype) for number, n in enumerate((5, 7, 7))]
    key = jax.random.key(3, impl="rbg")
    if bias_shape is not None:
        inputs.append(normal(3, bias_shape))

    def complete(function):
        return lambda q, k, v, bias=None: function(q, k, v, bias, key, rate)

    assert attend(*inputs[:3], None, key, rate).dtype == dtype
    bound = 3e-6 if dtype == "float32" else 2**-5  # weights, output and their product are rounded on the way
    assert_equals_definition(complete(attend), complete(attend_definition), inputs, dtype, bound)


@pytest.mark.parametrize("bias_shape", BIASES)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_gradients_in_absolute_numbers(bias_shape, rate):
    q, k, v = (normal(number, (2, 3, n, 4)) for number, n in enumerate((5, 7, 7)))
    bias = None if bias_shape is None else normal(3, bias_shape)
    key = jax.random.key(3, impl="rbg")
    wanted, pull = jax.vjp(lambda *inputs: attend_definition(*inputs, key, rate), q, k, v, bias)
    found, pull_ours = jax.vjp(lambda *inputs: attend(*inputs, key, rate), q, k, v, bias)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    cotangent = normal(4, wanted.shape)
    jax.tree.map(partial(np.testing.assert_allclose, atol=5e-6), pull_ours(cotangent), pull(cotangent))
