"""Where the whole model looks: weights that sum to 1 over the image, whatever the canvas, for every kind of queries."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.networks import SMALL, fill, jit, make, pixels, place

FAST = dict(words="fast", last_stage="layer3", denoising=1)
MODELS = {
    "plain": dict(last_stage="layer3"),
    "plain, pre-norm": dict(last_stage="layer2", pre_norm=True),
    "no encoder": dict(last_stage="layer3", encoder_layers=0),
    "fast": FAST,
    "fast, softmax": FAST | dict(class_scores="softmax"),
    "learned anchors": FAST | dict(queries="learned", finer_memory=False),
    "more queries than cells": FAST | dict(num_queries=70),
}
SIZE = (61, 87)
CHOSEN = 3


def choose(predictions):
    return jnp.argsort(-predictions.logits[-1].max(axis=-1), axis=-1)[:, :CHOSEN]


@pytest.mark.parametrize("name", MODELS)
def test_an_image_alone_and_beside_a_larger_one(name):
    settings = SMALL | dict(backbone="resnet10") | MODELS[name]
    net = make(**settings)
    arrays, apply = fill(net), jit(lambda *given: net.apply(*given, choose, method="with_attention"))
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    predictions, *alone = apply(arrays, pixels(image[None], SIZE))
    plain = jit(net.apply)(arrays, pixels(image[None], SIZE))
    for found, wanted in zip(predictions[:2], plain[:2], strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)
    other = rng.integers(0, 256, (96, 110, 3), np.uint8)
    batch = np.stack([place(one, (96, 128), rng) for one in (other, image)])
    _, *together = apply(arrays, pixels(batch, other.shape[:2], SIZE))
    strides = (16 if settings["last_stage"] == "layer3" else 8,) * 2
    strides = (strides[0] // 2, strides[1]) if name.startswith(("fast", "more")) else strides
    for ours, theirs, stride in zip(alone, together, strides, strict=True):
        if theirs is None:
            assert ours is None and name == "no encoder"
            continue
        np.testing.assert_allclose(theirs.cells[1], np.array(SIZE) / stride, rtol=1e-6)
        np.testing.assert_allclose(theirs.cells[1], ours.cells[0], rtol=1e-6)
        h, w = (-(-side // stride) for side in SIZE)
        values = np.asarray(theirs.values[1])
        assert values.shape[:2] == (settings["heads"], CHOSEN) and ours.values.shape[3:] == (h, w)
        np.testing.assert_allclose(values[:, :, :h, :w], ours.values[0], atol=1e-5)
        assert values[:, :, h:].max() == 0 and values[:, :, :, w:].max() == 0
        np.testing.assert_allclose(values.sum(axis=(2, 3)), 1, atol=1e-5)
        assert np.ptp(values[:, :, :h, :w]) > 1e-3  # it looks somewhere
