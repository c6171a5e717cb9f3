"""The mask head: published size, initial values, inert padding."""

import math

import jax
import numpy as np
import pytest

from detr_jax.config import ModelConfig
from detr_jax.models import detr
from detr_jax.models.segmentation import upsample
from tests.models.networks import jit, pixels

SMALL = {
    "backbone": "resnet10", "backbone_width": 8, "last_stage": "layer4", "dilation": False,
    "stride_in_1x1": False, "norm": "group", "position_embedding": "sine", "position_temperature": 10000.0,
    "hidden_dim": 64, "heads": 8, "encoder_layers": 1, "decoder_layers": 1, "feed_forward_dim": 32, "dropout": 0.0,
    "num_queries": 5, "pre_norm": False, "masks": True,
}  # fmt: skip
PUBLISHED = {
    "backbone": "resnet50", "backbone_width": 64, "norm": "frozen_batch", "hidden_dim": 256,
    "encoder_layers": 6, "decoder_layers": 6, "feed_forward_dim": 2048, "num_queries": 100,
}  # fmt: skip


@pytest.fixture(scope="module")
def start():
    """A small model and its initial values."""
    network = detr.network(ModelConfig(**SMALL), 3)
    return network, jit(network.init)(jax.random.key(0, impl="rbg"))


@pytest.fixture(scope="module")
def small(start):
    """The same model with values that are not 0 or 1, as a function to masks."""
    network, arrays = start
    random = np.random.default_rng(0)
    arrays = {name: array + 0.1 * random.normal(size=array.shape).astype(np.float32) for name, array in arrays.items()}

    @jit
    def masks(inputs, chosen):
        return network.apply(arrays, inputs, lambda _: chosen, method="with_masks")[1]

    return masks


def test_parameters_of_the_released_model():
    shapes = detr.network(ModelConfig(**SMALL | PUBLISHED), 250).shapes
    parts = {"mask_head/": 1_333_657, "mask_head/attention/": 131_584}
    for part, count in parts.items():
        assert sum(math.prod(shape.shape) for name, shape in shapes.items() if name.startswith(part)) == count
    assert not [
        name
        for name in detr.network(ModelConfig(**SMALL | {"masks": False}), 3).shapes
        if name.startswith("mask_head/")
    ]


def test_initial_values(start):
    for name, array in start[1].items():
        if not name.startswith("mask_head/"):
            continue
        if name.endswith(("/bias", "/scale")):
            np.testing.assert_array_equal(array, 1.0 if name.endswith("scale") else 0.0)
            continue
        fan_in = math.prod(array.shape[:-1])
        bound = math.sqrt(6 / (2 * fan_in)) if "attention" in name else math.sqrt(3 / fan_in)
        assert np.abs(array).max() <= bound, name
        np.testing.assert_allclose(np.std(array), bound / math.sqrt(3), rtol=0.15 if array.size > 300 else 0.5)


@pytest.mark.parametrize("cells, length", [(4, 8), (4, 7), (1, 1), (3, 3)])
def test_upsampling_is_torchs_nearest(cells, length):
    """Source cell floor(i * cells / length), for the lengths that a stage below has."""
    x = np.arange(cells, dtype=np.float32)
    wanted = x[[i * cells // length for i in range(length)]]
    np.testing.assert_array_equal(
        upsample(np.tile(x[None, :, None, None], (1, 1, 2, 1)), length, 2)[0, :, 0, 0], wanted
    )
    np.testing.assert_array_equal(
        upsample(np.tile(x[None, None, :, None], (1, 2, 1, 1)), 2, length)[0, 0, :, 0], wanted
    )


def test_padding_and_the_other_queries_are_inert(small):
    masks = small
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (61, 87, 3), np.uint8)
    alone = masks(pixels(image[None], (61, 87)), np.array([[0, 1, 2, 3, 4]]))[0]
    assert alone.shape == (5, 16, 22) and np.std(alone) > 0.01
    canvas = random.integers(0, 256, (2, 96, 128, 3), np.uint8)  # garbage around the image must not matter
    canvas[0, :61, :87] = image
    together = masks(pixels(canvas, (61, 87), (0, 0)), np.array([[4, 1], [0, 0]]))
    np.testing.assert_allclose(together[0, :, :16, :22], alone[np.array([4, 1])], atol=1e-5)
    assert np.isfinite(together).all()  # of the empty row too
