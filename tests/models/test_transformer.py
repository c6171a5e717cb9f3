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


def slow_weights(q, k, arrays, name, heads: int, bias=None) -> np.ndarray:
    q, k = slow_linear(q, arrays, f"{name}query"), slow_linear(k, arrays, f"{name}key")
    size = q.shape[1] // heads
    out = np.zeros((heads, len(q), len(k)))
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for row in range(len(q)):
            logits = np.array([q[row, part] @ other / math.sqrt(size) for other in k[:, part]])
            weights = np.exp(logits if bias is None else logits + bias[head, row])
            out[head, row] = weights / weights.sum()
    return out


def slow_attention(q, k, v, arrays, name, heads: int) -> np.ndarray:
    weights, v = slow_weights(q, k, arrays, name, heads), slow_linear(v, arrays, f"{name}value")
    parts = [weights[head] @ part for head, part in enumerate(np.split(v, heads, axis=1))]
    return slow_linear(np.concatenate(parts, axis=1), arrays, f"{name}out")


def slow_transformer(arrays, x, positions, queries, heads, layers, pre_norm):
    """Only the valid cells are given. The output of every decoder layer, and the weights of every attention."""
    looks = {}

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
        looks[f"{layer}/{kind}"] = slow_weights(*qkv[:2], arrays, f"{layer}/{kind}/", heads)
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
    return np.stack(outputs), looks


@pytest.mark.parametrize("pre_norm", [False, True])
def test_transformer_equals_loops_with_masked_cells(pre_norm):
    """Outputs, and where the last layers look."""
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
    memory, entered = module.encode(x, positions, valid)
    asking = np.array([[0, 8], [3, 2]])
    of_cells = module.encoder[-1].look(*entered, asking)
    assert of_cells.shape == (2, heads, 2, 16)  # cells are padded to a multiple of 8
    memory = transformer.Memory(memory, positions, valid, make_grid(np.full((2, 2), 3), 3, 3, 1))
    _, found, entered = module.decode(FixedQueries(np.zeros_like(queries), queries, Heads(None, None)), memory)
    of_queries = module.decoder[-1].look(*entered)
    for image in range(2):
        cells = valid[image]
        wanted, looks = slow_transformer(
            arrays, x[image, cells].astype(np.float64), positions[image, cells], queries[image].astype(np.float64),
            heads, layers, pre_norm,
        )  # fmt: skip
        np.testing.assert_allclose(found[:, image], wanted, atol=2e-4)
        rows = np.searchsorted(np.flatnonzero(cells), asking[image])
        for ours, theirs in (
            (of_cells[image], looks["encoder/1/self_attention"][:, rows]),
            (of_queries[image], looks["decoder/1/cross_attention"]),
        ):
            np.testing.assert_allclose(ours[..., np.flatnonzero(cells)], theirs, atol=2e-5)
            assert np.delete(ours, np.flatnonzero(cells), axis=-1).max(initial=0) == 0
            np.testing.assert_allclose(ours.sum(axis=-1), 1, atol=1e-5)


def test_the_focus_counts_where_queries_look():
    config = ModelConfig(hidden_dim=8, heads=2, dropout=0.0, anchors=True, focus=True)
    layer = transformer.DecoderLayer(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    arrays = randomise(layer)
    rng = np.random.default_rng(0)
    x, positions = rng.normal(size=(2, 1, 3, 8)).astype(np.float32)
    tokens, places = rng.normal(size=(2, 1, 6, 8)).astype(np.float32)
    valid = np.array([[1, 1, 1, 1, 0, 0]], bool)
    memory = transformer.Memory(tokens, places, valid, make_grid(np.array([[2, 2]]), 3, 2, 1))
    anchors = rng.uniform(0.2, 0.7, (1, 3, 4)).astype(np.float32)
    found = layer.look(x, positions, memory, anchors=anchors)
    attended = slow_attention(x[0] + positions[0], x[0] + positions[0], x[0], arrays, "self_attention/", 2)
    y = slow_norm(x[0] + attended, arrays, "residuals/0/norm")
    focus = np.asarray(layer.focus(y[None].astype(np.float32), anchors, memory.grid))[0, :, :, :4]
    assert np.ptp(focus) > 1
    wanted = slow_weights(y + positions[0], (tokens + places)[0, :4], arrays, "cross_attention/", 2, focus)
    np.testing.assert_allclose(found[0, :, :, :4], wanted, atol=1e-5)
    assert (found[..., 4:] == 0).all()


def test_the_cell_that_a_point_lies_in():
    """Of an image of 5 x 7 pixels in cells of 2 x 2, on a map of 4 x 5 cells."""
    valid = np.zeros((1, 4, 5), bool)
    valid[:, :3, :4] = True
    nothing = np.zeros((1, 20, 1), np.float32)
    memory = transformer.Memory(nothing, nothing, valid.reshape(1, 20), make_grid(np.array([[5, 7]]), 4, 5, 2))
    points = np.array([[[0, 0], [0.5, 0.5], [0.99, 0.01], [1, 1], [6.1 / 7, 3.9 / 5]]], np.float32)
    assert memory.cells_at(points).tolist() == [[0, 6, 3, 13, 8]]


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
