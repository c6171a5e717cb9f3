"""Where a feature cell lies in its image: fixed sines, or learned rows and columns (section A.4 of the paper)."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float, Int

from detr_jax.structures import Array

MAX_CELLS = 50  # rows and columns of the learned tables, as in the original: 1600 pixels at stride 32


def sine_positions(
    area: Int[Array, "B 2"], h: int, w: int, width: int, temperature: float = 10000.0
) -> Float[Array, "B h w D"]:
    """Sines and cosines of the row, then of the column, each scaled so that the real image spans 0..2 pi."""
    features = width // 2
    frequencies = temperature ** (-2.0 * (jnp.arange(features) // 2) / features)

    def encode(cells: int, length: Int[Array, " B"]) -> Float[Array, "B cells half"]:
        length = length[:, None]
        position = jnp.minimum(jnp.arange(cells)[None] + 1, length)  # counted from 1; padding repeats the last cell
        angle = position / (length + 1e-6) * (2 * jnp.pi)
        angle = angle[..., None] * frequencies[None, None]
        pairs = jnp.stack([jnp.sin(angle[..., 0::2]), jnp.cos(angle[..., 1::2])], axis=-1)
        return pairs.reshape(*angle.shape)

    batch = area.shape[0]
    rows = jnp.broadcast_to(encode(h, area[:, 0])[:, :, None], (batch, h, w, features))
    columns = jnp.broadcast_to(encode(w, area[:, 1])[:, None, :], (batch, h, w, features))
    return jnp.concatenate([rows, columns], axis=-1)


class SinePositions(nnx.Module):
    """``sine_positions`` with its settings."""

    def __init__(self, width: int, temperature: float):
        self.width, self.temperature = width, temperature

    def __call__(self, area: Int[Array, "B 2"], h: int, w: int) -> Float[Array, "B h w D"]:
        return sine_positions(area, h, w, self.width, self.temperature)


class LearnedPositions(nnx.Module):
    """A learned vector per column, then one per row; the same for every image, whatever its size."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        table = nnx.initializers.uniform(1.0)
        self.columns = nnx.Param(table(rngs.params(), (MAX_CELLS, width // 2)))
        self.rows = nnx.Param(table(rngs.params(), (MAX_CELLS, width // 2)))

    def __call__(self, area: Int[Array, "B 2"], h: int, w: int) -> Float[Array, "B h w D"]:
        """Raises ValueError for maps larger than ``MAX_CELLS``, where the original fails with an index error."""
        if max(h, w) > MAX_CELLS:
            raise ValueError(
                f"learned positions reach {MAX_CELLS} cells but the feature map has {h} x {w}; "
                "use --config.model.position_embedding=sine or smaller buckets"
            )
        half = self.columns.shape[1]
        columns = jnp.broadcast_to(self.columns[...][None, :w], (h, w, half))
        rows = jnp.broadcast_to(self.rows[...][:h, None], (h, w, half))
        positions = jnp.concatenate([columns, rows], axis=-1)
        return jnp.broadcast_to(positions[None], (area.shape[0], *positions.shape))
