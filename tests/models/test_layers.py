"""Layers against Flax and against loops; layers of equal settings are traced once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from detr_jax.models import layers
from tests.ops.slow import slow_conv


def values_and_gradients(layer: nnx.Module, x, cotangent):
    """What a layer makes of ``x``, and the gradients of ``x`` and of its arrays."""
    graph, arrays = nnx.split(layer)
    made, pull = jax.vjp(lambda x, arrays: nnx.merge(graph, arrays)(x), x, arrays)
    of_x, of_arrays = pull(cotangent.astype(made.dtype))
    return made, of_x, *(leaf[...] for _, leaf in sorted(nnx.to_flat_state(of_arrays)))


@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 2e-5), (jnp.bfloat16, 0.04)])
@pytest.mark.parametrize("kind", ["linear", "layer norm"])
def test_layers_and_their_gradients_are_those_of_flax(kind, dtype, bound):
    """Flax in float32 is the reference for both types."""
    rng = np.random.default_rng(0)
    if kind == "linear":
        ours = layers.Linear(6, 5, dtype=dtype, rngs=nnx.Rngs(0))
        flax = nnx.Linear(6, 5, dtype=jnp.float32, rngs=nnx.Rngs(1))
        flax.kernel[...], flax.bias[...] = ours.kernel[...], ours.bias[...]
    else:
        ours = layers.LayerNorm(6, dtype=dtype, rngs=nnx.Rngs(0))
        flax = nnx.LayerNorm(6, epsilon=1e-5, dtype=jnp.float32, rngs=nnx.Rngs(0))
        scale, bias = jnp.asarray(rng.normal(size=(2, 6)), jnp.float32)
        for layer in (ours, flax):
            layer.scale[...], layer.bias[...] = scale, bias
    x = jnp.asarray(3 + 2 * rng.normal(size=(2, 3, 4, 6)), dtype)
    cotangent = jnp.asarray(rng.normal(size=(2, 3, 4, 5 if kind == "linear" else 6)), dtype)
    found = values_and_gradients(ours, x, cotangent)
    assert found[0].dtype == found[1].dtype == dtype and all(leaf.dtype == jnp.float32 for leaf in found[2:])
    wanted = values_and_gradients(flax, x.astype(jnp.float32), cotangent.astype(jnp.float32))
    for value, reference in zip(found, wanted, strict=True):
        scale = np.abs(np.asarray(reference)).max()
        np.testing.assert_allclose(value.astype(jnp.float32), reference, atol=bound * scale)


def test_linear_layers_together_are_each_alone():
    first, second = (layers.Linear(6, 5, dtype=jnp.float32, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 6)), jnp.float32)
    for found, layer in zip(layers.apply_linears(x, first, second), (first, second), strict=True):
        np.testing.assert_allclose(found, layer(x), atol=1e-6)


SHAPES = [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (7, 2, 1)]  # size, stride, dilation


@pytest.mark.parametrize("size, stride, dilation", SHAPES)
def test_convolution_equals_a_loop_on_an_even_and_an_odd_size(size, stride, dilation):
    conv = layers.Conv(3, 5, size, stride, dilation, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(1, 12, 15, 3)).astype(np.float32)
    wanted = slow_conv(x[0], np.asarray(conv.kernel[...], np.float64), stride, dilation)
    np.testing.assert_allclose(conv(jnp.asarray(x))[0], wanted, atol=1e-4)


def test_frozen_batch_norm_is_its_formula():
    rng = np.random.default_rng(0)
    conv, norm = layers.Conv(4, 6, 3, rngs=nnx.Rngs(0)), layers.FrozenBatchNorm(6)
    mean, bias = rng.normal(size=(2, 6))
    var, scale = rng.uniform(0.5, 1.5, (2, 6))
    for name, values in dict(mean=mean, bias=bias, var=var, scale=scale).items():
        getattr(norm, name)[...] = jnp.asarray(values, jnp.float32)
    x = jnp.asarray(rng.normal(size=(1, 5, 7, 4)), jnp.float32)
    found = layers.conv_then_norm(conv, norm, x, jnp.array([[5, 7]]))
    np.testing.assert_allclose(found, (np.asarray(conv(x)) - mean) / np.sqrt(var + 1e-5) * scale + bias, atol=1e-4)


def test_group_norm_sees_the_real_image_only():
    """Each group of channels of each image has mean 0 and variance 1 over its real cells."""
    norm = layers.GroupNorm(16)
    x = jnp.asarray(3 + 2 * np.random.default_rng(0).normal(size=(2, 6, 7, 16)), jnp.float32)
    extents = np.array([[4, 5], [6, 7]])
    found = np.asarray(norm(x, jnp.asarray(extents)))
    for image, (h, w) in enumerate(extents):
        groups = found[image, :h, :w].reshape(h * w, 8, 2)
        np.testing.assert_allclose(groups.mean(axis=(0, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(groups.var(axis=(0, 2)), 1, atol=1e-3)


def test_layers_of_equal_settings_share_one_trace():
    """Half of the time to trace a model."""
    traces = []

    class Counted(nnx.Module):
        def __init__(self, rngs):
            self.linear = layers.Linear(4, 4, dtype=jnp.float32, rngs=rngs)
            self.norm = layers.LayerNorm(4, dtype=jnp.float32, rngs=rngs)

        def __call__(self, x):
            traces.append(x.shape)
            return self.norm(self.linear(x))

    modules = [Counted(nnx.Rngs(seed)) for seed in range(3)]

    @jax.jit
    def run(x):
        for module in modules:
            x = layers.apply_layer(module, x)
        return x

    found, x = run(jnp.ones((2, 4))), jnp.ones((2, 4))
    assert len(traces) == 1
    for module in modules:
        x = module(x)
    np.testing.assert_allclose(found, x, atol=1e-5)


def test_a_perceptron_starts_at_zero_where_it_should():
    x = jnp.ones((2, 4))
    perceptron = layers.Perceptron(4, 8, 3, zero_output=True, dtype=jnp.float32, rngs=nnx.Rngs(0))
    assert perceptron(x).shape == (2, 3) and not np.any(perceptron(x))
    assert np.any(layers.Perceptron(4, 8, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))(x))
