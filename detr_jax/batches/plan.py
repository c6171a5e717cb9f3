"""Which images, in which views and on which canvas, make up step k: a pure function of (seed, k).

Sizes and target counts are known without opening an image, so a whole epoch is decided in one go: every image gets its
view, hence its bucket; buckets are cut into batches; batches are shuffled. Every host computes the same list and takes
its rows of each batch. The step number is therefore all there is to remember of the data in a checkpoint, and resuming
needs neither the same hosts nor the same workers. It also answers afterwards what step k was made of.
"""

import hashlib
import threading
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from detr_jax.batches import augmentation
from detr_jax.batches.augmentation import Augmentation, View
from detr_jax.batches.canvases import Bucket, fit
from detr_jax.errors import UserError


class PlannedBatch(NamedTuple):
    """One step's images. In an empty row, ``rows`` and ``image_ids`` are -1 and the view means nothing."""

    bucket: Bucket
    rows: Int[np.ndarray, " B"]  # indices into the split
    image_ids: Int[np.ndarray, " B"]
    views: View

    def shard(self, host: int, hosts: int) -> "PlannedBatch":
        """The equal part of the rows that this host (of ``hosts``) reads. Raises UserError when there is none."""
        if len(self.rows) % hosts:
            raise UserError(
                f"a batch of {len(self.rows)} images cannot be shared equally by {hosts} hosts; "
                f"set --config.train.batch_size to a multiple of {hosts}"
            )
        size = len(self.rows) // hosts
        part = slice(host * size, (host + 1) * size)
        return PlannedBatch(self.bucket, self.rows[part], self.image_ids[part], self.views.take(part))


class _Batches(NamedTuple):
    """A run of batches, one a row."""

    buckets: Int[np.ndarray, " steps"]
    rows: Int[np.ndarray, "steps B"]
    views: View  # fields [steps B ...]


class TrainPlan:
    """An endless sequence of full batches in random order; ``plan[step]`` is a PlannedBatch. Safe to share by threads.

    An epoch shows each image at most once and leaves out ``M mod batch_size`` of them, others each time. Images left
    over after the full batches of each bucket share a few batches, on the smallest canvas that takes them; where a
    landscape and a portrait canvas would both be needed, the images that stick out are scaled down.

    Args:
        image_ids, sizes, target_counts: of the split's M images; sizes are (height, width).
        settings: the augmentation. An image that fits no bucket is scaled down until it does.
        buckets: have room for every image's targets (see ``buckets.with_room``).
        batch_size: of all hosts together. With fewer images than that, an epoch is one batch that repeats them.
    """

    def __init__(
        self,
        image_ids: Int[np.ndarray, " M"],
        sizes: Int[np.ndarray, "M 2"],
        target_counts: Int[np.ndarray, " M"],
        settings: Augmentation,
        buckets: tuple[Bucket, ...],
        batch_size: int,
        seed: int,
    ):
        if not len(image_ids):
            raise UserError("there is no image to train on; set --config.data.train_split to a split that has some")
        self.image_ids, self.sizes, self.target_counts = image_ids, sizes, target_counts
        self.settings, self.buckets, self.batch_size, self.seed = settings, tuple(buckets), batch_size, seed
        self.steps_per_epoch = max(1, len(image_ids) // batch_size)
        self._epochs: dict[int, _Batches] = {}
        self._lock = threading.Lock()

    def __getitem__(self, step: int) -> PlannedBatch:
        epoch, index = divmod(step, self.steps_per_epoch)
        with self._lock:
            if epoch not in self._epochs:
                self._epochs = {e: batches for e, batches in self._epochs.items() if e == epoch - 1}
                self._epochs[epoch] = self._plan_epoch(epoch)
            batches = self._epochs[epoch]
        return _planned(batches, index, self.buckets, self.image_ids)

    def _plan_epoch(self, epoch: int) -> _Batches:
        images, batch_size = len(self.image_ids), self.batch_size
        copies = -(-batch_size // images)  # 1, unless there are fewer images than rows in a batch
        rows = np.tile(np.arange(images), copies)
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))  # only .random(): the same in every NumPy
        views = augmentation.views(self.sizes[rows], rng.random((len(rows), augmentation.DRAWS)), self.settings)
        order = np.argsort(rng.random(len(rows)) + np.arange(len(rows)) // images, kind="stable")  # copy after copy
        order = order[: self.steps_per_epoch * batch_size]

        batches = self._batches(order, views.size, self.target_counts[rows])
        batches = batches[np.argsort(rng.random(self.steps_per_epoch), kind="stable")]
        bucket_of, sizes = fit(views.size[batches], self.target_counts[rows][batches], self.buckets)
        return _Batches(bucket_of, rows[batches], views.take(batches)._replace(size=sizes))

    def _batches(self, order, sizes, counts):
        """Cuts the images in ``order`` into batches [steps B]: full ones of each bucket, then of what is left over."""
        bucket_of, _ = fit(sizes[order, None], counts[order, None], self.buckets)
        full, left_over = [], []
        # From the widest canvas over the small ones to the tallest, so that neighbours among the left over go together.
        signed_areas = [bucket.area * (1 if bucket.height > bucket.width else -1) for bucket in self.buckets]
        for k in np.argsort(signed_areas, kind="stable"):
            members = order[bucket_of == k]
            cut = len(members) - len(members) % self.batch_size
            full.append(members[:cut])
            left_over.append(members[cut:])
        return np.concatenate(full + left_over).reshape(-1, self.batch_size)


class EvalPlan:
    """Every image once, in its evaluation view: a sequence of batches, the largest canvas first.

    The last batch of each bucket is filled up with empty rows. Arguments as for ``TrainPlan``; an image with more
    targets than any bucket holds goes where the most do.
    """

    def __init__(
        self,
        image_ids: Int[np.ndarray, " M"],
        sizes: Int[np.ndarray, "M 2"],
        target_counts: Int[np.ndarray, " M"],
        settings: Augmentation,
        buckets: tuple[Bucket, ...],
        batch_size: int,
    ):
        self.image_ids, self.buckets = image_ids, tuple(buckets)
        self._batches = self._plan(sizes, target_counts, settings, batch_size)

    def _plan(self, sizes, target_counts, settings, batch_size) -> _Batches:
        views = augmentation.views(sizes, np.zeros((len(sizes), augmentation.DRAWS)), settings)
        counts = np.minimum(target_counts, max(bucket.targets for bucket in self.buckets))
        bucket_of, final_sizes = fit(views.size[:, None], counts[:, None], self.buckets)
        filled = []
        for k in np.argsort([-bucket.area for bucket in self.buckets], kind="stable"):
            members = np.flatnonzero(bucket_of == k)
            filled.append(np.append(members, np.full(-len(members) % batch_size, -1)))
        rows = np.concatenate(filled).reshape(-1, batch_size)
        return _Batches(bucket_of[rows[:, 0]], rows, views._replace(size=final_sizes[:, 0]).take(rows))

    def __len__(self) -> int:
        return len(self._batches.rows)

    def __getitem__(self, step: int) -> PlannedBatch:
        return _planned(self._batches, step, self.buckets, self.image_ids)


def digest(batches: Iterable[PlannedBatch]) -> str:
    """Fingerprint of what these batches show: images, views and canvases. Equal digests train on equal data."""
    sha = hashlib.sha256()
    for batch in batches:
        for field in (np.array(batch.bucket), batch.image_ids, *batch.views):
            sha.update(np.ascontiguousarray(field, "<i8").tobytes())
    return sha.hexdigest()


def _planned(batches: _Batches, index: int, buckets: tuple[Bucket, ...], image_ids) -> PlannedBatch:
    rows = batches.rows[index]
    ids = np.where(rows < 0, -1, image_ids[rows])
    return PlannedBatch(buckets[batches.buckets[index]], rows, ids, batches.views.take(index))
