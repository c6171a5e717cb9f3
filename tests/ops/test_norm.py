"""Layer norm against its definition."""

import pytest

from detr_jax.ops.norm import layer_norm, layer_norm_definition
from tests.ops.definitions import assert_equals_definition, normal


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(16,), (7, 16), (2, 3, 4, 16)])
def test_layer_norm(shape, dtype):
    inputs = [normal(0, shape, dtype, mean=3.0), normal(1, (16,)), normal(2, (16,))]
    assert layer_norm(*inputs, 1e-5).dtype == dtype
    assert_equals_definition(
        lambda *arrays: layer_norm(*arrays, 1e-5), lambda *arrays: layer_norm_definition(*arrays, 1e-5), inputs, dtype
    )
