"""Cross-attention around each query's anchor: the spatially modulated co-attention of SMCA-DETR.

Each head looks for its part of the object at an offset from the centre of the anchor, within a width of its own; both
are predicted from the query, in units of the anchor's sides. A Gaussian of that centre and width is added to the
logits of the attention (Gao et al. 2021, arXiv:2101.07448, section 3.2).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

from detr_jax.models.layers import Linear
from detr_jax.models.position_encoding import Grid
from detr_jax.structures import Array

EDGES = ((0.45, 0.0), (-0.45, 0.0), (0.0, 0.45), (0.0, -0.45))  # initial offsets of half of the heads: the borders
EDGE_WIDTH, CENTER_WIDTHS = 0.25, (0.3, 0.5, 1.0, 2.0)  # the other heads start at the centre, with ever larger widths
LOG_WIDTH_BOUNDS = (-3.0, 2.0)
FAINTEST = -30.0  # lower bound of what is added to a logit, so that no token is ever quite out of reach


def _initial_windows(heads: int) -> np.ndarray:
    """Initial (offset x, offset y, log width, log height) of every head."""
    windows = np.zeros((heads, 4), np.float32)
    edges = heads // 2
    for head in range(heads):
        if head < edges:
            windows[head] = *EDGES[head % 4], math.log(EDGE_WIDTH), math.log(EDGE_WIDTH)
        else:
            windows[head, 2:] = math.log(CENTER_WIDTHS[(head - edges) % 4])
    return windows


class Focus(nnx.Module):
    """What is added to the logits of a decoder layer's attention into the image; float32."""

    def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
        self.heads = heads
        self.window = Linear(width, 4 * heads, bound=0.0, zero_bias=True, dtype=dtype, rngs=rngs)
        self.window.bias[...] = jnp.asarray(_initial_windows(heads).reshape(-1))

    def __call__(
        self, queries: Float[Array, "B N D"], anchors: Float[Array, "B N 4"], grid: Grid
    ) -> Float[Array, "B A N S"]:
        batch, count, _ = queries.shape
        window = self.window(queries).astype(jnp.float32).reshape(batch, count, self.heads, 4)
        centers, sides = anchors[:, :, None, :2], anchors[:, :, None, 2:]
        middle = centers + window[..., :2] * sides
        # Half a cell more: the Gaussian of a box smaller than a cell would fall between the cells.
        width = jnp.exp(jnp.clip(window[..., 2:], *LOG_WIDTH_BOUNDS)) * sides + 0.5 * grid.cell[:, None, None, ::-1]
        return _gaussian(middle, width, grid.rows, grid.columns).reshape(batch, count, self.heads, -1).swapaxes(1, 2)


@jax.checkpoint  # the result is as large as the attention weights; the backward pass recomputes it from small inputs
def _gaussian(
    middle: Float[Array, "B N A 2"],
    width: Float[Array, "B N A 2"],
    rows: Float[Array, "B h"],
    columns: Float[Array, "B w"],
) -> Float[Array, "B N A h w"]:
    """The logarithm of a Gaussian at every cell."""

    def along(cells, axis):  # [B N A n]
        distance = (cells[:, None, None, :] - middle[..., axis, None]) / width[..., axis, None]
        return -0.5 * jnp.square(distance)

    return jnp.maximum(along(rows, 1)[..., :, None] + along(columns, 0)[..., None, :], FAINTEST)
