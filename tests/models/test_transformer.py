"""The transformer against the figure of the paper, written out for one image in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from detr_jax.config import ModelConfig
from detr_jax.models import transformer
from detr_jax.models.heads import Heads
from detr_jax.models.position_encoding import make_grid
from detr_jax.models.queries import FixedQueries
from tests.models.networks import randomise

NARROW = ModelConfig(hidden_dim=8, heads=2, dropout=0.0)


def slow_linear(x, arrays, name):
    return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]


def slow_norm(x, arrays, name):
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return normal * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]


def slow_attention(q, k, v, arrays, name, heads: int) -> np.ndarray:
    q, k, v = (slow_linear(x, arrays, f"{name}{part}") for x, part in ((q, "query"), (k, "key"), (v, "value")))
    size = q.shape[1] // heads
    out = np.zeros_like(q)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for row in range(len(q)):
            weights = np.exp([q[row, part] @ other / math.sqrt(size) for other in k[:, part]])
            out[row, part] = (weights / weights.sum()) @ v[:, part]
    return slow_linear(out, arrays, f"{name}out")


def slow_transformer(arrays, x, positions, queries, heads, layers, pre_norm):
    """Only the valid cells are given. Returns the output of every decoder layer."""

    def around(x, layer, number, sublayer):
        norm = f"{layer}/residuals/{number}/norm"
        if pre_norm:
            return x + sublayer(slow_norm(x, arrays, norm))
        return slow_norm(x + sublayer(x), arrays, norm)

    def feed_forward(layer):
        def apply(x):
            hidden = np.maximum(slow_linear(x, arrays, f"{layer}/feed_forward/linear1"), 0)
            return slow_linear(hidden, arrays, f"{layer}/feed_forward/linear2")

        return apply

    def attend(layer, kind, *qkv):
        return slow_attention(*qkv, arrays, f"{layer}/{kind}/", heads)

    for number in range(layers):
        layer = f"encoder/{number}"
        x = around(x, layer, 0, lambda y, at=layer: attend(at, "self_attention", y + positions, y + positions, y))
        x = around(x, layer, 1, feed_forward(layer))
    memory = slow_norm(x, arrays, "encoder_norm") if pre_norm else x
    out, outputs = np.zeros_like(queries), []
    for number in range(layers):
        layer = f"decoder/{number}"
        out = around(out, layer, 0, lambda y, at=layer: attend(at, "self_attention", y + queries, y + queries, y))
        out = around(
            out, layer, 1, lambda y, at=layer: attend(at, "cross_attention", y + queries, memory + positions, memory)
        )
        out = around(out, layer, 2, feed_forward(layer))
        outputs.append(slow_norm(out, arrays, "decoder_norm"))
    return np.stack(outputs)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_transformer_equals_loops_with_masked_cells(pre_norm):
    width, heads, layers = 16, 4, 2
    config = ModelConfig(
        hidden_dim=width, heads=heads, feed_forward_dim=24, encoder_layers=layers, decoder_layers=layers,
        pre_norm=pre_norm
    )  # fmt: skip
    module = transformer.Transformer(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    arrays = randomise(module)
    rng = np.random.default_rng(1)
    x, positions = rng.normal(size=(2, 2, 9, width)).astype(np.float32)
    queries = rng.normal(size=(2, 5, width)).astype(np.float32)
    valid = np.array([[1, 1, 0, 1, 1, 0, 0, 1, 1], [1] * 9], bool)
    memory, _ = module.encode(x, positions, valid)
    memory = transformer.Memory(memory, positions, valid, make_grid(np.full((2, 2), 3), 3, 3, 1))
    _, found, _ = module.decode(FixedQueries(np.zeros_like(queries), queries, Heads(None, None)), memory)
    for image in range(2):
        cells = valid[image]
        wanted = slow_transformer(
            arrays, x[image, cells].astype(np.float64), positions[image, cells], queries[image].astype(np.float64),
            heads, layers, pre_norm,
        )  # fmt: skip
        np.testing.assert_allclose(found[:, image], wanted, atol=2e-4)


def test_attention_without_any_valid_key_is_finite():
    layer = transformer.Attention(NARROW, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8)), jnp.float32)
    valid = jnp.array([[True, False, True], [False, False, False]])

    def summed(x):
        return jnp.sum(layer(x, x, x, valid))

    value, gradient = jax.value_and_grad(summed)(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_attention_among_the_queries_is_that_with_them_as_keys():
    layer = transformer.Attention(NARROW, dtype=jnp.float32, rngs=nnx.Rngs(0))
    layer.key.bias[...] = jnp.arange(8.0)
    x, y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3, 8)), jnp.float32)
    np.testing.assert_allclose(layer(x, None, y), layer(x, x, y), atol=1e-6)
