"""Cross-attention that looks around each query's anchor box: the spatially modulated co-attention of SMCA-DETR.

Each head expects what it looks for at an offset from the centre of the anchor and within a width of its own, both in
units of the anchor's sides and both predicted from the query. A Gaussian of that centre and width is added to the
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

EDGES = ((0.45, 0.0), (-0.45, 0.0), (0.0, 0.45), (0.0, -0.45))  # where half of the heads start to look: at the borders
EDGE_WIDTH, CENTER_WIDTHS = 0.25, (0.3, 0.5, 1.0, 2.0)  # the other half looks around the centre, ever wider
LOG_WIDTHS = (-3.0, 2.0)  # bounds
FAINTEST = -30.0  # lower bound of what is added to a logit, so that no token is ever quite out of reach


def everywhere(queries, anchors, grid) -> None:
    """No focus: nothing is added to the logits."""


def _start(heads: int) -> np.ndarray:
    """Initial (offset x, offset y, log width, log height) of every head."""
    start = np.zeros((heads, 4), np.float32)
    edges = heads // 2
    for head in range(heads):
        if head < edges:
            start[head] = *EDGES[head % 4], math.log(EDGE_WIDTH), math.log(EDGE_WIDTH)
        else:
            start[head, 2:] = math.log(CENTER_WIDTHS[(head - edges) % 4])
    return start


class Focus(nnx.Module):
    """What is added to the logits of a decoder layer's attention into the image; float32."""

    def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
        self.heads = heads
        start = _start(heads).reshape(-1)
        self.window = Linear(
            width,
            4 * heads,
            kernel_init=nnx.initializers.zeros_init(),
            bias_init=lambda key, shape, dtype: jnp.asarray(start, dtype),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, queries: Float[Array, "B N D"], anchors: Float[Array, "B N 4"], grid: Grid
    ) -> Float[Array, "B A N S"]:
        batch, count, _ = queries.shape
        window = self.window(queries).astype(jnp.float32).reshape(batch, count, self.heads, 4)
        centers, sides = anchors[:, :, None, :2], anchors[:, :, None, 2:]
        middle = centers + window[..., :2] * sides
        # Half a cell more: the Gaussian of a box smaller than a cell would fall between the cells.
        width = jnp.exp(jnp.clip(window[..., 2:], *LOG_WIDTHS)) * sides + 0.5 * grid.cell[:, None, None, ::-1]

        return _gaussian(middle, width, grid.rows, grid.columns).reshape(batch, count, self.heads, -1).swapaxes(1, 2)


@jax.checkpoint  # made again in the backward pass from what is small, or it is as large as the attention's weights
def _gaussian(
    middle: Float[Array, "B N A 2"],
    width: Float[Array, "B N A 2"],
    rows: Float[Array, "B h"],
    columns: Float[Array, "B w"],
) -> Float[Array, "B N A h w"]:
    def fall(cells, axis):  # [B N A n]
        distance = (cells[:, None, None, :] - middle[..., axis, None]) / width[..., axis, None]
        return -0.5 * jnp.square(distance)

    return jnp.maximum(fall(rows, 1)[..., :, None] + fall(columns, 0)[..., None, :], FAINTEST)
