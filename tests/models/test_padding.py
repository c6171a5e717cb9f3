"""Extents and the cells that belong to an image."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.models.padding import clear_padding, shrink, valid_cells


@pytest.mark.parametrize("stride", [1, 2, 4, 16, 32])
def test_shrink_rounds_up(stride):
    sizes = np.array([[height, width] for height in range(70) for width in (0, 1, 31, 32, 33, 64, 800, 1333)])
    wanted = [[math.ceil(side / stride) for side in size] for size in sizes]
    np.testing.assert_array_equal(shrink(jnp.asarray(sizes), stride), wanted)


def test_cells_outside_the_image_are_cleared():
    extent = np.array([[2, 3], [0, 0], [4, 5]])
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    valid, cleared = np.asarray(valid_cells(extent, 4, 5)), np.asarray(clear_padding(x, extent))
    for image, row, column in np.ndindex(3, 4, 5):
        inside = row < extent[image, 0] and column < extent[image, 1]
        assert valid[image, row, column] == inside
        np.testing.assert_array_equal(cleared[image, row, column], x[image, row, column] if inside else 0)
