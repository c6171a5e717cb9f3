"""Convolutions against a loop and against their definitions, as they are on a CPU and elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.ops import convolution
from tests.ops.definitions import assert_equals_definition, normal
from tests.ops.slow import slow_conv

SHAPES = [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (7, 2, 1)]  # size, stride, dilation


@pytest.fixture(params=["cpu", "default"])  # what a CPU does, and what a GPU and a TPU do
def platform(request, monkeypatch):
    choose = lambda *arguments, **ways: ways[request.param](*arguments)  # noqa: E731
    monkeypatch.setattr(convolution.lax, "platform_dependent", choose)


@pytest.mark.parametrize("size, stride, dilation", SHAPES)
def test_a_loop_on_an_even_and_an_odd_size(size, stride, dilation):
    x, kernel = normal(0, (1, 12, 15, 3)), normal(1, (size, size, 3, 5)) / size
    wanted = slow_conv(x[0], np.asarray(kernel, np.float64), stride, dilation)
    for function in (convolution.convolve, convolution.convolve_definition):
        np.testing.assert_allclose(function(x, kernel, None, stride, dilation)[0], wanted, atol=1e-4)


@pytest.mark.parametrize("size, stride, dilation", SHAPES)
@pytest.mark.parametrize("channels", [(5, 3), (2, 6)])  # the product's wider side on the left and on the right
@pytest.mark.parametrize("is_scaled", [False, True])
def test_convolve(size, stride, dilation, channels, is_scaled, platform):
    x, kernel = normal(size, (2, 9, 12, channels[0])), normal(size + 1, (size, size, *channels))
    powers = np.random.default_rng(size).choice([-1.0, 0.5, -0.25, 1.0], channels[1])  # of 2: they round nothing
    scale = jnp.asarray(powers, jnp.float32) if is_scaled else None
    found, pull = jax.vjp(lambda x, kernel: convolution.convolve(x, kernel, scale, stride, dilation), x, kernel)
    wanted, pull_wanted = jax.vjp(
        lambda x, kernel: convolution.convolve_definition(x, kernel, scale, stride, dilation), x, kernel
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    cotangent = normal(0, wanted.shape)
    for ours, theirs in zip(pull(cotangent), pull_wanted(cotangent), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("size, stride, dilation", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_convolve_in_either_dtype(size, stride, dilation, dtype, platform):
    """With any scale, and a float32 kernel as parameters are."""
    inputs, scale = [normal(0, (2, 9, 12, 4), dtype), normal(1, (size, size, 4, 6))], normal(2, (6,))
    functions = [
        lambda x, kernel, of=of: of(x, kernel, scale, stride, dilation)
        for of in (convolution.convolve, convolution.convolve_definition)
    ]
    assert_equals_definition(*functions, inputs, dtype)


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_scaled", [False, True])
def test_convolve_stem(size, dtype, is_scaled, platform):
    inputs = [normal(0, (2, 13, 18, 3), dtype), normal(1, (size, size, 3, 8))]
    scale = normal(2, (8,)) if is_scaled else None
    functions = [
        lambda x, kernel, of=of: of(x, kernel, scale, 2)
        for of in (convolution.convolve_stem, convolution.convolve_stem_definition)
    ]
    assert_equals_definition(*functions, inputs, dtype)


def test_a_scale_gets_no_gradient():
    x, kernel, scale = normal(0, (1, 4, 4, 2)), normal(1, (3, 3, 2, 2)), normal(2, (2,))
    gradient = jax.grad(lambda scale: jnp.sum(convolution.convolve(x, kernel, scale)))(scale)
    assert not np.any(gradient)
