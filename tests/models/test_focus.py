"""The focus of cross-attention against a loop."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from detr_jax.models.focus import Focus
from detr_jax.models.position_encoding import make_grid


def test_focus_equals_a_loop():
    heads, h, w = 4, 3, 5
    focus = Focus(8, heads, dtype=jnp.float32, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    focus.window.kernel[...] = jnp.asarray(rng.normal(0, 0.3, focus.window.kernel.shape), jnp.float32)
    queries = rng.normal(size=(1, 2, 8)).astype(np.float32)
    boxes = np.array([[[0.4, 0.5, 0.3, 0.2], [0.7, 0.2, 0.05, 0.5]]], np.float32)
    grid = make_grid(np.array([[22, 40]], np.int32), h, w, 8)
    found = np.asarray(focus(queries, boxes, grid))
    window = np.asarray(focus.window(queries)).reshape(2, heads, 4)
    for query, head, row, column in np.ndindex(2, heads, h, w):
        cx, cy, bw, bh = boxes[0, query]
        ox, oy, lw, lh = window[query, head]
        x, y = (column + 0.5) * 8 / 40, (row + 0.5) * 8 / 22
        sx, sy = math.exp(min(max(lw, -3), 2)) * bw + 4 / 40, math.exp(min(max(lh, -3), 2)) * bh + 4 / 22
        wanted = -0.5 * ((x - cx - ox * bw) / sx) ** 2 - 0.5 * ((y - cy - oy * bh) / sy) ** 2
        assert found[0, head, query, row * w + column] == pytest.approx(max(wanted, -30), rel=1e-3, abs=1e-4)
