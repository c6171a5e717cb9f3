"""Readers: pixels, photos with their views, and the shapes that a step is compiled for."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from detr_jax.batches.features import FeatureReader
from detr_jax.batches.inputs import PhotoReader, PixelReader, batch_shapes, make_reader
from detr_jax.batches.pipeline import Pipeline, load_batch, to_device
from detr_jax.batches.plan import TrainPlan, make_evaluation_plan
from detr_jax.config import Config, DataConfig
from detr_jax.config_check import check
from detr_jax.errors import UserError
from detr_jax.images.decoding import decode
from detr_jax.ops.resample import resample
from detr_jax.structures import Photos
from tests.batches.stored import BUCKETS, DATA, make_images


@pytest.fixture(scope="module")
def images():
    return make_images()


def data(resize):
    return dataclasses.replace(DATA, resize=resize)


def test_photos_are_images_as_stored_with_their_views(images):
    """Whole images on one canvas; targets as with pixels; the device's views within two levels of the host's."""
    plan, photos, look = (
        TrainPlan(images, DATA, 4, seed=5),
        make_reader(data("device"), images.sizes),
        jax.jit(resample),
    )
    with Pipeline(images, plan, stop=8, threads=2, reader=photos) as batches:
        for step, batch in enumerate(batches):
            expected = load_batch(images, plan[step], PixelReader())
            assert isinstance(batch.inputs, Photos) and batch.inputs.pixels.shape == (4, 64, 96, 3)
            assert batch.inputs.canvas == plan[step].bucket[:2] and batch.inputs.crop_max == DATA.crop_max
            for row, index in enumerate(plan[step].rows):
                (height, width), image = images.sizes[index], batch.inputs.pixels[row]
                np.testing.assert_array_equal(image[:height, :width], decode(images.files[index]))
                assert not image[height:].any() and not image[:, width:].any()
                np.testing.assert_array_equal(batch.inputs.sizes[row], (height, width))
            for field, wanted in zip(batch.inputs.views, plan[step].views, strict=True):
                np.testing.assert_array_equal(field, wanted)
            np.testing.assert_array_equal(batch.inputs.views.size, expected.inputs.sizes)
            jax.tree.map(np.testing.assert_array_equal, batch.targets, expected.targets)
            np.testing.assert_array_equal(batch.image_ids, expected.image_ids)
            looked = look(batch.inputs)
            assert np.abs(np.asarray(looked.pixels).astype(int) - expected.inputs.pixels).max() <= 2
            np.testing.assert_array_equal(looked.sizes, expected.inputs.sizes)
            if step == 0:
                (on_device,) = to_device([batch], NamedSharding(Mesh(jax.devices()[:2], "data"), PartitionSpec("data")))
                jax.tree.map(np.testing.assert_array_equal, on_device[0], batch)


def test_no_crop_is_longer_than_the_photos_reader_says(images):
    whole = make_reader(dataclasses.replace(data("device"), crop=0.0), images.sizes)
    assert whole.empty(BUCKETS[0], 2).crop_max == 0


def test_fast_resizing_is_within_two_levels_and_changes_nothing_else(images):
    plan, fast = TrainPlan(images, DATA, 4, seed=5), make_reader(data("fast"), images.sizes)
    for step in range(3):
        found = load_batch(images, plan[step], fast)
        expected = load_batch(images, plan[step], make_reader(data("host"), images.sizes))
        difference = np.abs(found.inputs.pixels.astype(int) - expected.inputs.pixels)
        assert difference.max() <= 2 and 0 < difference.mean() < 0.35
        np.testing.assert_array_equal(found.inputs.sizes, expected.inputs.sizes)
        jax.tree.map(np.testing.assert_array_equal, found._replace(inputs=0), expected._replace(inputs=0))


def test_opencv_has_one_thread_once_a_run_resizes_with_it(images):
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(2)
        make_reader(data("host"), images.sizes)
        assert cv2.getNumThreads() == 2
        make_reader(data("fast"), images.sizes)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)


def test_what_cannot_be_read_is_refused():
    with pytest.raises(UserError, match="data.resize=gpu does not exist; choose from host, fast, device"):
        check(Config(data=DataConfig(resize="gpu")))
    large = np.array([[480, 640], [1200, 900]], np.int32)
    with pytest.raises(UserError, match="up to 1024 pixels a side, but there are some of 1200: set data.resize=fast"):
        make_reader(data("device"), large)


@pytest.mark.parametrize("kind", ["pixels", "photos", "features"])
def test_shapes_are_those_of_the_batches(images, kind):
    """A step compiled for ``batch_shapes`` takes the batches that arrive on the devices, empty rows included."""
    reader = {
        "pixels": PixelReader(),
        "photos": PhotoReader(images.sizes, DATA.crop_max),
        "features": FeatureReader(lambda pixels, sizes: np.ones((1, 24, 24, 5)), stage=2, stride=8, channels=5),
    }[kind]
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data"))
    for planned in make_evaluation_plan(DATA, images, 4):
        batch = load_batch(images, planned, reader)
        for array in jax.tree.leaves(batch.inputs):
            assert not array[planned.rows < 0].any()
        ((batch, _),) = to_device([batch], sharding)
        shapes = batch_shapes(reader, planned.bucket, 4, sharding)
        assert jax.tree.structure(shapes) == jax.tree.structure(batch)
        for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(batch), strict=True):
            assert (shape.shape, shape.dtype, shape.sharding) == (array.shape, array.dtype, array.sharding)
