"""Batches are the same whoever prepares them, in however many threads, on however many hosts."""

import dataclasses
import hashlib
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from detr_jax.batches import augmentation
from detr_jax.batches.inputs import PixelReader
from detr_jax.batches.pipeline import Pipeline, load_batch, to_device
from detr_jax.batches.plan import TrainPlan, make_evaluation_plan
from detr_jax.errors import UserError
from detr_jax.images.decoding import decode
from tests.batches.stored import DATA, make_images

LARGEST_SCALE_64 = dataclasses.replace(DATA, scales=(64,))


@pytest.fixture(scope="module")
def images():
    return make_images()


def train_plan(images, batch_size=4):
    return TrainPlan(images, DATA, batch_size, seed=5)


def digest(batches):
    sha = hashlib.sha256()
    for batch in batches:
        for array in jax.tree.leaves(batch):
            sha.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return sha.hexdigest()


def batches_of(images, start=0, stop=12, **options):
    with Pipeline(images, train_plan(images), start, stop, **options) as batches:
        return list(batches)


def test_threads_change_nothing(images):
    expected = digest(batches_of(images, threads=0))
    assert digest(batches_of(images, threads=2)) == expected
    assert digest(batches_of(images, threads=8)) == expected
    resumed = batches_of(images, threads=2, start=0, stop=5) + batches_of(images, threads=4, start=5)
    assert digest(resumed) == expected


def test_hosts_share_the_batches(images):
    whole = batches_of(images, threads=0)
    parts = [batches_of(images, threads=2, part=(host, 2)) for host in range(2)]
    joined = [jax.tree.map(lambda *arrays: np.concatenate(arrays), *shards) for shards in zip(*parts, strict=True)]
    assert digest(joined) == digest(whole)


def test_rows_hold_what_was_planned(images):
    plan = train_plan(images)
    for step, batch in enumerate(batches_of(images)):
        bucket, rows, image_ids, views = plan[step]
        pixels, sizes = batch.inputs
        assert pixels.shape == (4, bucket.height, bucket.width, 3) and pixels.dtype == np.uint8
        np.testing.assert_array_equal(batch.image_ids, image_ids)
        np.testing.assert_array_equal(sizes, views.size)
        for i in range(4):
            record = images[rows[i]]
            expected, boxes, labels = augmentation.apply(
                decode(record.image), record.boxes_xyxy_pixels, record.labels, views.take(i)
            )
            height, width = expected.shape[:2]
            np.testing.assert_array_equal(pixels[i, :height, :width], expected)
            assert not pixels[i, height:].any() and not pixels[i, :, width:].any()
            valid = batch.targets.valid[i]
            assert valid.sum() == len(labels) and valid[: len(labels)].all()
            np.testing.assert_array_equal(batch.targets.boxes[i, valid], boxes)
            np.testing.assert_array_equal(batch.targets.labels[i, valid], labels)
            assert not batch.targets.boxes[i, ~valid].any() and not batch.targets.labels[i, ~valid].any()


def test_evaluation_pads_with_empty_rows(images):
    plan = make_evaluation_plan(LARGEST_SCALE_64, images, 8)
    with Pipeline(images, plan, threads=2) as batches:
        batches = list(batches)
    assert len(batches) == len(plan)
    image_ids = np.concatenate([batch.image_ids for batch in batches])
    assert sorted(image_ids[image_ids >= 0]) == images.image_ids.tolist()
    for batch in batches:
        empty, (pixels, sizes) = batch.image_ids < 0, batch.inputs
        assert not pixels[empty].any() and not sizes[empty].any() and not batch.targets.valid[empty].any()
        assert (sizes[~empty] > 0).all()


def test_crowded_evaluation_images_keep_their_first_targets(images):
    crowded = images._replace(target_counts=images.target_counts + 5)
    for planned in make_evaluation_plan(LARGEST_SCALE_64, crowded, 30):
        batch, real = load_batch(crowded, planned, PixelReader()), planned.rows >= 0
        kept = np.minimum(crowded.target_counts[planned.rows[real]], planned.bucket.targets)
        np.testing.assert_array_equal(batch.targets.valid[real].sum(axis=1), kept)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("keep, words", [(0, "empty"), (3, "not an image"), (1500, "truncated")])
def test_a_broken_image_is_named(images, threads, keep, words):
    files = list(images.files)
    files[3] = files[3][:keep]
    broken = images._replace(files=files)
    with (
        pytest.raises(UserError, match=rf"image 121 \(0121.jpg\) of the split 'train' .*{words}.*dataset check"),
        Pipeline(broken, train_plan(broken), threads=threads, strict=True) as batches,
    ):
        for _ in range(20):
            next(batches)


def test_an_image_of_another_size_than_annotated(images):
    files = list(images.files)
    files[0] = next(f for f, size in zip(files, images.sizes, strict=True) if (size != images.sizes[0]).any())
    other = images._replace(files=files)
    with pytest.raises(UserError, match="image 100 .* annotations say"):
        for planned in make_evaluation_plan(LARGEST_SCALE_64, other, 30):
            load_batch(other, planned, PixelReader(), strict=True)


def test_to_device(images):
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data"))
    on_host = batches_of(images, threads=0)
    on_device = list(to_device(batches_of(images, threads=0), sharding))
    assert len(on_device) == len(on_host)
    for (batch, waited), expected in zip(on_device, on_host, strict=True):
        assert waited >= 0
        for array, numpy_array in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
            assert array.sharding.is_equivalent_to(sharding, array.ndim)
            np.testing.assert_array_equal(array, numpy_array)


def test_to_device_stays_one_ahead_and_counts_the_wait(images):
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data"))
    batch, taken = load_batch(images, train_plan(images)[0], PixelReader()), []

    def slow():
        for step in range(4):
            time.sleep(0.05)
            taken.append(step)
            yield batch

    ahead, waits = [], []
    for _, waited in to_device(slow(), sharding):
        ahead.append(len(taken))
        waits.append(waited)
    assert ahead == [2, 3, 4, 4]
    assert waits[0] >= 0.1 and waits[1] >= 0.05 and waits[2] >= 0.05 and waits[3] < 0.05
    assert list(to_device([], sharding)) == []
