"""Batches are the same whoever prepares them, in however many threads, on however many hosts."""

import hashlib
import io
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from detr_jax.batches import augmentation
from detr_jax.batches.augmentation import Augmentation, evaluation
from detr_jax.batches.canvases import Bucket
from detr_jax.datasets.decode import decode
from detr_jax.batches.inputs import Photos, chosen
from detr_jax.batches.pipeline import Pipeline, load, to_device
from detr_jax.batches.plan import EvalPlan, TrainPlan
from detr_jax.datasets.split import Record
from detr_jax.ops.resample import seen
from detr_jax.errors import UserError

SMALL = Augmentation(scales=(48, 64, 80), max_size=133, crop_scales=(40, 50, 60), crop_min=38, crop_max=60)
BUCKETS = (Bucket(64, 96, 6), Bucket(96, 64, 6), Bucket(96, 144, 9), Bucket(144, 96, 9))


class Memory(NamedTuple):
    """What a Split offers, without a disk."""

    name: str
    image_ids: np.ndarray
    sizes: np.ndarray
    target_counts: np.ndarray
    files: list[bytes]

    def __getitem__(self, index):
        height, width = self.sizes[index]
        count = self.target_counts[index]
        low = np.random.default_rng(index).random((count, 2)) * 0.5
        boxes = np.concatenate([low, low + 0.4], axis=1) * [width, height, width, height]
        labels = np.arange(count, dtype=np.int32)
        image_id = int(self.image_ids[index])
        return Record(self.files[index], image_id, f"{image_id:04}.jpg", boxes.astype(np.float32), labels)


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    sizes = rng.choice([[48, 64], [64, 48], [60, 60], [40, 90]], 30).astype(np.int32)
    files = []
    for height, width in sizes:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    return Memory("train", 100 + np.arange(30) * 7, sizes, rng.integers(0, 9, 30).astype(np.int32), files)


def train_plan(source, batch_size=4):
    return TrainPlan(source.image_ids, source.sizes, source.target_counts, SMALL, BUCKETS, batch_size, seed=5)


def digest(batches):
    sha = hashlib.sha256()
    for batch in batches:
        for array in jax.tree.leaves(batch):
            sha.update(f"{array.shape} {array.dtype}".encode() + array.tobytes())
    return sha.hexdigest()


def read(source, start=0, stop=12, **options):
    with Pipeline(source, train_plan(source), start, stop, **options) as batches:
        return list(batches)


def test_threads_change_nothing(source):
    expected = digest(read(source, threads=0))
    assert digest(read(source, threads=2)) == expected
    assert digest(read(source, threads=4, ahead=1)) == expected
    assert digest(read(source, threads=2, start=0, stop=5) + read(source, threads=4, start=5)) == expected


def test_hosts_share_the_batches(source):
    whole = read(source, threads=0)
    parts = [read(source, threads=2, host=host, hosts=2) for host in range(2)]
    joined = [jax.tree.map(lambda *arrays: np.concatenate(arrays), *shards) for shards in zip(*parts, strict=True)]
    assert digest(joined) == digest(whole)


def test_rows_hold_what_was_planned(source):
    plan = train_plan(source)
    for step, batch in enumerate(read(source)):
        bucket, rows, image_ids, views = plan[step]
        assert batch.images.shape == (4, bucket.height, bucket.width, 3) and batch.images.dtype == np.uint8
        np.testing.assert_array_equal(batch.image_ids, image_ids)
        np.testing.assert_array_equal(batch.sizes, views.size)
        for i in range(4):
            record = source[rows[i]]
            pixels, boxes, labels = augmentation.apply(
                decode(record.image), record.boxes_xyxy_pixels, record.labels, views.take(i)
            )
            height, width = pixels.shape[:2]
            np.testing.assert_array_equal(batch.images[i, :height, :width], pixels)
            assert not batch.images[i, height:].any() and not batch.images[i, :, width:].any()
            valid = batch.targets.valid[i]
            assert valid.sum() == len(labels) and valid[: len(labels)].all()
            np.testing.assert_array_equal(batch.targets.boxes[i, valid], boxes)
            np.testing.assert_array_equal(batch.targets.labels[i, valid], labels)
            assert not batch.targets.boxes[i, ~valid].any() and not batch.targets.labels[i, ~valid].any()


def test_evaluation_pads_with_empty_rows(source):
    settings = evaluation(scale=64, max_size=133)
    plan = EvalPlan(source.image_ids, source.sizes, source.target_counts, settings, BUCKETS, 8)
    with Pipeline(source, plan, threads=2) as batches:
        batches = list(batches)
    assert len(batches) == len(plan)
    image_ids = np.concatenate([batch.image_ids for batch in batches])
    assert sorted(image_ids[image_ids >= 0]) == source.image_ids.tolist()
    for batch in batches:
        empty = batch.image_ids < 0
        assert not batch.images[empty].any() and not batch.sizes[empty].any() and not batch.targets.valid[empty].any()
        assert (batch.sizes[~empty] > 0).all()


def test_crowded_evaluation_images_keep_their_first_targets(source):
    crowded = source._replace(target_counts=source.target_counts + 5)
    plan = EvalPlan(crowded.image_ids, crowded.sizes, crowded.target_counts, evaluation(64, 133), BUCKETS, 30)
    for planned in plan:
        batch, real = load(crowded, planned), planned.rows >= 0
        kept = np.minimum(crowded.target_counts[planned.rows[real]], planned.bucket.targets)
        np.testing.assert_array_equal(batch.targets.valid[real].sum(axis=1), kept)


def test_photos_as_they_were_read(source):
    """Whole images on one canvas with the views beside them; everything else as the host's own way has it."""
    plan, photos, look = train_plan(source), Photos(source.sizes), jax.jit(seen, static_argnums=(1, 2))
    assert photos.canvas == (64, 96)
    with Pipeline(source, plan, stop=8, threads=2, pictures=photos) as batches:
        for step, batch in enumerate(batches):
            expected = load(source, plan[step])
            assert batch.images.shape == (4, 64, 96, 3)
            for row, index in enumerate(plan[step].rows):
                (height, width), image = source.sizes[index], batch.images[row]
                np.testing.assert_array_equal(image[:height, :width], decode(source.files[index]))
                assert not image[height:].any() and not image[:, width:].any()
                np.testing.assert_array_equal(batch.sizes[row], (height, width))
            for field, wanted in zip(batch.views, plan[step].views, strict=True):
                np.testing.assert_array_equal(field, wanted)
            np.testing.assert_array_equal(batch.views.size, expected.sizes)
            jax.tree.map(np.testing.assert_array_equal, batch.targets, expected.targets)
            np.testing.assert_array_equal(batch.image_ids, expected.image_ids)
            looked = look(batch, plan[step].bucket[:2], SMALL.crop_max)
            assert np.abs(np.asarray(looked.images).astype(int) - expected.images).max() <= 2
            if step == 0:
                (on_device,) = to_device([batch], NamedSharding(Mesh(jax.devices()[:2], "data"), PartitionSpec("data")))
                jax.tree.map(np.testing.assert_array_equal, on_device[0], batch)


def test_who_resizes(source):
    assert isinstance(chosen("device", source.sizes), Photos)
    plan, fast = train_plan(source), chosen("fast", source.sizes)
    for step in range(3):
        found, expected = load(source, plan[step], fast), load(source, plan[step], chosen("host", source.sizes))
        difference = np.abs(found.images.astype(int) - expected.images)
        assert difference.max() <= 2 and 0 < difference.mean() < 0.35
        jax.tree.map(np.testing.assert_array_equal, found._replace(images=0), expected._replace(images=0))
    with pytest.raises(UserError, match="data.resize='gpu' does not exist; choose from host, fast, device"):
        chosen("gpu", source.sizes)
    large = np.array([[480, 640], [1200, 900]], np.int32)
    with pytest.raises(UserError, match="up to 1024 pixels a side, but there are some of 1200: set --config.data.resi"):
        chosen("device", large)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("keep, words", [(0, "empty"), (3, "not an image"), (1500, "truncated")])
def test_a_broken_image_is_named(source, threads, keep, words):
    files = list(source.files)
    files[3] = files[3][:keep]
    broken = source._replace(files=files)
    with (
        pytest.raises(UserError, match=rf"image 121 \(0121.jpg\) of the split 'train' .*{words}.*dataset check"),
        Pipeline(broken, train_plan(broken), threads=threads) as batches,
    ):
        for _ in range(20):
            next(batches)


def test_an_image_of_another_size_than_annotated(source):
    files = list(source.files)
    files[0] = next(f for f, size in zip(files, source.sizes, strict=True) if (size != source.sizes[0]).any())
    other = source._replace(files=files)
    plan = EvalPlan(other.image_ids, other.sizes, other.target_counts, evaluation(64, 133), BUCKETS, 30)
    with pytest.raises(UserError, match="image 100 .* annotations say"):
        [load(other, planned) for planned in plan]


def test_to_device(source):
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data"))
    on_host = read(source, threads=0)
    on_device = list(to_device(read(source, threads=0), sharding))
    assert len(on_device) == len(on_host)
    for (batch, waited), expected in zip(on_device, on_host, strict=True):
        assert waited >= 0
        for array, numpy_array in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
            assert array.sharding.is_equivalent_to(sharding, array.ndim)
            np.testing.assert_array_equal(array, numpy_array)


def test_to_device_stays_one_ahead_and_counts_the_wait(source):
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec("data"))
    batch, taken = load(source, train_plan(source)[0]), []

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
