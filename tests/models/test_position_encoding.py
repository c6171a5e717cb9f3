"""Position encodings against loops, and the grid of a map."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from detr_jax.errors import UserError
from detr_jax.models import position_encoding


def test_sine_positions_equal_a_loop():
    extents, h, w, width = [(5, 7), (3, 9), (6, 1)], 6, 9, 16
    found = np.asarray(position_encoding.sine_positions(jnp.array(extents), h, w, width))
    for image, row, column in np.ndindex(3, h, w):
        inside = np.zeros((h, w))
        inside[: extents[image][0], : extents[image][1]] = 1
        down, right = inside.cumsum(0), inside.cumsum(1)
        for channel in range(width):
            half, feature = divmod(channel, width // 2)  # first y, then x
            if half == 0:
                angle = down[row, column] / (down[-1, column] + 1e-6) * 2 * math.pi
            else:
                angle = right[row, column] / (right[row, -1] + 1e-6) * 2 * math.pi
            angle /= 10000 ** (2 * (feature // 2) / (width // 2))
            wanted = math.cos(angle) if feature % 2 else math.sin(angle)
            if inside[row, column]:
                np.testing.assert_allclose(found[image, row, column, channel], wanted, atol=1e-5)
    assert np.isfinite(found).all()


def test_learned_positions_put_the_column_first_and_end_at_50_cells():
    positions = position_encoding.LearnedPositions(8, rngs=nnx.Rngs(0))
    found = positions(jnp.array([[3, 4], [1, 1]]), 3, 50)
    assert found.shape == (2, 3, 50, 8)
    for row, column in np.ndindex(3, 50):
        wanted = np.concatenate([positions.columns[...][column], positions.rows[...][row]])
        np.testing.assert_array_equal(found[1, row, column], wanted)
    with pytest.raises(UserError, match="50 cells"):
        positions(jnp.array([[3, 4]]), 51, 4)
    with pytest.raises(UserError, match="50 cells"):
        positions(jnp.array([[3, 4]]), 4, 51)


def test_a_grid_is_in_units_of_the_image():
    grid = position_encoding.make_grid(np.array([[22, 40]], np.int32), 3, 5, 8)
    for row, column in np.ndindex(3, 5):
        wanted = (column + 0.5) * 8 / 40, (row + 0.5) * 8 / 22
        np.testing.assert_allclose(grid.centers[0, row * 5 + column], wanted, rtol=1e-6)
    np.testing.assert_allclose(grid.cell, [[8 / 22, 8 / 40]], rtol=1e-6)
