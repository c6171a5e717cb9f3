"""Made-up images and objects: like COCO's, and in the form in which a reader gives them."""

import dataclasses

import jax
import numpy as np
import pytest

from detr_jax.batches.features import FeatureReader
from detr_jax.batches.inputs import batch_shapes, make_reader
from detr_jax.benchmarks import coco_like
from detr_jax.config import COCO_BUCKETS, DataConfig
from detr_jax.structures import Features, Photos


def test_made_up_images_are_like_coco():
    counts = coco_like.draw_counts(100_000, np.random.default_rng(0))
    assert 4 <= np.median(counts) <= 5 and 7 < counts.mean() < 7.6 and counts.max() <= 93
    assert 38 < np.percentile(counts, 99) < 46 and 0.008 < (counts == 0).mean() < 0.012
    images = coco_like.ImageSizes(10_000)
    landscape = (images.sizes[:, 1] > images.sizes[:, 0]).mean()
    assert 0.7 < landscape < 0.77
    batch = coco_like.make_batch(COCO_BUCKETS[0], 3, 80, np.random.default_rng(0))
    for image, (height, width) in zip(batch.inputs.pixels, batch.inputs.sizes, strict=True):
        assert image[:height, :width].any() and not image[height:].any() and not image[:, width:].any()


@pytest.mark.parametrize("kind", ["host", "fast", "device", "features"])
def test_batches_have_the_shapes_that_the_step_is_compiled_for(kind):
    bucket, rng = COCO_BUCKETS[0], np.random.default_rng(0)
    if kind == "features":
        reader = FeatureReader(lambda pixels, sizes: None, stage=2, stride=8, channels=6)
    else:
        reader = make_reader(dataclasses.replace(DataConfig(), resize=kind), coco_like.ImageSizes(50).sizes)
    batch = coco_like.make_batch(bucket, 2, 80, rng)
    batch = batch._replace(inputs=coco_like.make_inputs(batch.inputs, reader, bucket, rng))
    device = jax.devices()[0]
    wanted = batch_shapes(reader, bucket, 2, jax.sharding.SingleDeviceSharding(device))
    found = jax.device_put(batch, device)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for array, shape in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (array.shape, array.dtype) == (shape.shape, shape.dtype)


def test_views_are_of_the_sizes_that_were_asked_for():
    bucket, rng = COCO_BUCKETS[0], np.random.default_rng(0)
    pixels = coco_like.make_batch(bucket, 3, 80, rng).inputs
    sizes = coco_like.ImageSizes(50).sizes
    photos = coco_like.make_inputs(pixels, make_reader(DataConfig(resize="device"), sizes), bucket, rng)
    assert isinstance(photos, Photos) and photos.pixels.any()
    np.testing.assert_array_equal(photos.views.size, pixels.sizes)
    reader = FeatureReader(lambda pixels, sizes: None, stage=2, stride=8, channels=6)
    features = coco_like.make_inputs(pixels, reader, bucket, rng)
    assert isinstance(features, Features) and np.isfinite(features.features).all()
    np.testing.assert_array_equal(features.sizes, pixels.sizes)
