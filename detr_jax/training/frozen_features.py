"""The frozen stages of the backbone as a function, for batches that hold features instead of pixels."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from detr_jax.batches.features import FeatureReader
from detr_jax.batches.inputs import PixelReader
from detr_jax.config import STAGES
from detr_jax.images.decoding import Limits
from detr_jax.structures import Bucket, Pixels
from detr_jax.training.step import Recipe, TrainState


def make_feature_reader(recipe: Recipe, state: TrainState, bucket: Bucket) -> FeatureReader:
    """A reader of the features of ``train.cache_features``, computed with the frozen arrays of ``state``.

    ``bucket`` is any of the canvases; the stride and channels of the features are looked up on it.
    """
    stage = STAGES.index(recipe.config.train.cache_features) + 1
    # The training step donates its state; the reader computes with copies.
    frozen = {name: array.copy() for name, array in state.frozen.items() if name.startswith("backbone/")}

    @jax.jit
    def compute(frozen, images, sizes):
        # Arrays above the stage are not read.
        absent = {name: jnp.zeros(shape.shape) for name, shape in recipe.network.shapes.items()}
        return recipe.network.apply(absent | frozen, Pixels(images, sizes), stage, method="features")

    one = np.zeros((1, bucket.height, bucket.width, 3), np.uint8), np.zeros((1, 2), np.int32)
    _, h, _, channels = jax.eval_shape(compute, frozen, *one).shape
    stride = 1 << round(math.log2(bucket.height / h))
    pixels = PixelReader(limits=Limits(*recipe.config.data.image_limits))
    return FeatureReader(partial(compute, frozen), stage, stride, channels, pixels)
