"""Matrix products against their definitions."""

import jax
import numpy as np
import pytest

from detr_jax.ops.linear import matmul, matmul_definition, project, project_definition
from tests.ops.definitions import assert_equals_definition, normal

DTYPES = ["float32", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6,), (7, 6), (2, 3, 4, 6)])
def test_matmul(shape, dtype):
    inputs = [normal(0, shape, dtype), normal(1, (6, 5), dtype)]
    assert_equals_definition(matmul, matmul_definition, inputs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 3])
def test_project(count, dtype):
    """Parameters are float32 whatever passes through; so are their gradients."""
    x = normal(0, (2, 3, 4, 6), dtype)
    kernels, biases = [normal(1 + n, (6, 5)) for n in range(count)], [normal(9 + n, (5,)) for n in range(count)]
    inputs = [x, *kernels, *biases]

    def split(function):
        return lambda x, *arrays: function(x, arrays[:count], arrays[count:])

    assert all(made.dtype == dtype for made in project(x, kernels, biases))
    assert_equals_definition(split(project), split(project_definition), inputs, dtype)


def test_the_gradient_of_a_kernel_is_not_transposed():
    """Its product has the kernel's rows first, so the optimizer's arrays need no copy."""
    x, kernel = normal(0, (2, 3, 6)), normal(1, (6, 5))
    jaxpr = jax.make_jaxpr(lambda x, kernel, g: jax.vjp(matmul, x, kernel)[1](g)[1])(x, kernel, normal(2, (2, 3, 5)))
    assert "transpose" not in str(jaxpr).split("dot_general")[-1]
    assert np.shape(jaxpr.out_avals[0]) == (6, 5)
