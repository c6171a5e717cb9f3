"""Where a feature cell lies in its image: fixed sines, or learned rows and columns (section A.4 of the paper)."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from detr_jax.config_check import MAX_CELLS
from detr_jax.errors import UserError
from detr_jax.structures import Array


class Grid(NamedTuple):
    """Where the cells of a feature map lie, in units of the image's sides; padding lies beyond 1."""

    rows: Float[Array, "B h"]  # centres
    columns: Float[Array, "B w"]
    cell: Float[Array, "B 2"]  # (height, width) of one cell

    @property
    def centers(self) -> Float[Array, "B S 2"]:
        """(cx, cy) of every cell, row by row."""
        shape = (*self.rows.shape, self.columns.shape[1])
        columns = jnp.broadcast_to(self.columns[:, None, :], shape)
        rows = jnp.broadcast_to(self.rows[:, :, None], shape)
        return jnp.stack([columns, rows], axis=-1).reshape(shape[0], -1, 2)


def make_grid(sizes: Int[Array, "B 2"], h: int, w: int, stride: int) -> Grid:
    """The grid of an h x w map with cells of ``stride`` pixels, for images of these (height, width) in pixels."""
    cell = stride / jnp.maximum(sizes, 1).astype(jnp.float32)
    rows, columns = ((jnp.arange(cells) + 0.5)[None] * cell[:, axis, None] for axis, cells in enumerate((h, w)))
    return Grid(rows, columns, cell)


def sines(angle: Float[Array, "*b"], features: int, temperature: float) -> Float[Array, "*b F"]:
    """Sines and cosines, interleaved, of an angle at ``features`` / 2 frequencies."""
    frequencies = temperature ** (-2.0 * (jnp.arange(features) // 2) / features)
    angle = angle[..., None] * frequencies[(None,) * angle.ndim]
    pairs = jnp.stack([jnp.sin(angle[..., 0::2]), jnp.cos(angle[..., 1::2])], axis=-1)
    return pairs.reshape(*angle.shape)


def sine_positions(
    extent: Int[Array, "B 2"], h: int, w: int, width: int, temperature: float = 10000.0
) -> Float[Array, "B h w D"]:
    """Sines and cosines of the row, then of the column, each scaled so that the image spans 0..2 pi."""
    features = width // 2

    def encode(cells: int, length: Int[Array, " B"]) -> Float[Array, "B cells half"]:
        length = length[:, None]
        position = jnp.minimum(jnp.arange(cells)[None] + 1, length)  # counted from 1; padding repeats the last cell
        return sines(position / (length + 1e-6) * (2 * jnp.pi), features, temperature)

    batch = extent.shape[0]
    rows = jnp.broadcast_to(encode(h, extent[:, 0])[:, :, None], (batch, h, w, features))
    columns = jnp.broadcast_to(encode(w, extent[:, 1])[:, None, :], (batch, h, w, features))
    return jnp.concatenate([rows, columns], axis=-1)


class SinePositions(nnx.Module):
    """Fixed sines, for maps of any size."""

    def __init__(self, width: int, temperature: float):
        self.width, self.temperature = width, temperature

    def __call__(self, extent: Int[Array, "B 2"], h: int, w: int) -> Float[Array, "B h w D"]:
        return sine_positions(extent, h, w, self.width, self.temperature)


class LearnedPositions(nnx.Module):
    """A learned vector per column, then one per row; the same for every image, whatever its size."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        table = nnx.initializers.uniform(1.0)
        self.columns = nnx.Param(table(rngs.params(), (MAX_CELLS, width // 2)))
        self.rows = nnx.Param(table(rngs.params(), (MAX_CELLS, width // 2)))

    def __call__(self, extent: Int[Array, "B 2"], h: int, w: int) -> Float[Array, "B h w D"]:
        """Raises UserError for a map larger than ``MAX_CELLS``, where the original fails with an index error."""
        if max(h, w) > MAX_CELLS:
            raise UserError(
                f"learned positions reach {MAX_CELLS} cells but the feature map has {h} x {w}; "
                "set model.position_embedding=sine or smaller data.buckets"
            )
        half = self.columns.shape[1]
        columns = jnp.broadcast_to(self.columns[...][None, :w], (h, w, half))
        rows = jnp.broadcast_to(self.rows[...][:h, None], (h, w, half))
        positions = jnp.concatenate([columns, rows], axis=-1)
        return jnp.broadcast_to(positions[None], (extent.shape[0], *positions.shape))
