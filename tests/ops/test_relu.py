"""ReLUs against their definitions, to the last bit, and what the compiler makes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.ops.convolution import convolve
from detr_jax.ops.relu import relu, relu_definition, relu_of_sum, relu_of_sum_definition

DTYPES = [jnp.float32, jnp.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu(dtype):
    x = jnp.asarray([-2.0, -0.0, 0.0, 1e-30, 3.0, np.inf, -np.inf, np.nan], dtype)
    cotangent = jnp.arange(1.0, 9.0).astype(dtype)
    ours, theirs = (jax.vjp(function, x) for function in (relu, relu_definition))
    np.testing.assert_array_equal(ours[0].astype(jnp.float32), theirs[0].astype(jnp.float32))
    np.testing.assert_array_equal(ours[1](cotangent)[0], theirs[1](cotangent)[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_of_a_sum(dtype):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(2, 5000)) * 10.0 ** rng.integers(-20, 20, 5000), dtype) for _ in range(2))
    x, y = x.at[:, :100].set(-y[:, :100]).at[:, 100:200].set(0.0), y.at[:, 200:300].set(0.0)
    ours, pull = jax.vjp(relu_of_sum, x, y)
    theirs, pull_theirs = jax.vjp(relu_of_sum_definition, x, y)
    np.testing.assert_array_equal(ours, theirs)
    for gradient, wanted in zip(pull(x), pull_theirs(x), strict=True):
        np.testing.assert_array_equal(gradient, wanted)


@pytest.mark.budget
def test_no_residual_block_is_computed_again_for_the_next():
    """Twice the blocks read and write twice as much; 2.8 times as much with a plain maximum."""

    def bytes_accessed(blocks: int) -> float:
        def run(x, kernels):
            for kernel in kernels:
                x = relu_of_sum(x, convolve(x, kernel))
            return x

        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 32, 48, 64), (blocks, 1, 1, 64, 64))]
        return jax.jit(run).lower(*shapes).compile().cost_analysis()["bytes accessed"]

    assert bytes_accessed(12) < 2.1 * bytes_accessed(6)
