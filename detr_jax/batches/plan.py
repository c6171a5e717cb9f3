"""Which images, in which views and on which canvas, make up step k: a pure function of (seed, k).

Sizes and target counts are known without opening an image, so a whole epoch is planned at once: each image gets its
view and hence its bucket, the images of each bucket are cut into batches, the batches are shuffled. Every host computes
the same plan and reads its rows of each batch. So a checkpoint needs to remember nothing of the data but the step, a
run may resume with other hosts or threads, and it can be asked afterwards what step k was made of.
"""

import dataclasses
import hashlib
import threading
from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from detr_jax.batches import augmentation
from detr_jax.batches.canvases import fit_buckets, make_room
from detr_jax.config import Config, DataConfig
from detr_jax.errors import UserError
from detr_jax.structures import Bucket, View


@runtime_checkable
class ImageTable(Protocol):
    """What is known of M images without opening them: a ``Split``, or anything else with these columns."""

    image_ids: np.ndarray  # [M]
    sizes: np.ndarray  # [M 2] (height, width)
    target_counts: np.ndarray  # [M]


class PlannedBatch(NamedTuple):
    """The images of one step. In an empty row, ``rows`` and ``image_ids`` are -1 and the view means nothing."""

    bucket: Bucket
    rows: Int[np.ndarray, " B"]  # of the table of images
    image_ids: Int[np.ndarray, " B"]
    views: View

    def shard(self, host: int, hosts: int) -> "PlannedBatch":
        """The rows that this host reads, an equal part. Raises UserError when the batch cannot be divided so."""
        if len(self.rows) % hosts:
            raise UserError(
                f"a batch of {len(self.rows)} images cannot be shared equally by {hosts} hosts; "
                f"set train.batch_size to a multiple of {hosts}"
            )
        size = len(self.rows) // hosts
        part = slice(host * size, (host + 1) * size)
        return PlannedBatch(self.bucket, self.rows[part], self.image_ids[part], self.views.take(part))


class _Batches(NamedTuple):
    """Batches of an epoch; row i is step i."""

    buckets: Int[np.ndarray, " steps"]
    rows: Int[np.ndarray, "steps B"]
    views: View  # fields [steps B ...]


class TrainPlan:
    """An endless sequence of full batches in random order; ``plan[step]`` is a PlannedBatch. Threads may share it.

    An epoch shows each image at most once and leaves out ``M mod batch_size`` of them, others each time. The images
    left over after the full batches of each bucket share a few batches, on the smallest canvas that holds them; if that
    takes both a landscape and a portrait canvas, the images that stick out are scaled down.

    Args:
      images: what to train on.
      data: the augmentation and the buckets, which have room for every image's targets (``canvases.make_room``). An
        image that fits no bucket is scaled down until it does.
      batch_size: over all hosts. With fewer images than that, an epoch is one batch that repeats them.

    Attributes:
      buckets: the canvases. steps_per_epoch: batches of an epoch.

    Raises UserError when there is no image.
    """

    def __init__(self, images: ImageTable, data: DataConfig, batch_size: int, seed: int):
        if not len(images.image_ids):
            raise UserError("there is no image to train on; set data.train_split to a split that has some")
        self.image_ids, self.sizes, self.target_counts = images.image_ids, images.sizes, images.target_counts
        self.data, self.buckets, self.batch_size, self.seed = data, data.buckets, batch_size, seed
        self.steps_per_epoch = max(1, len(images.image_ids) // batch_size)
        self._epochs: dict[int, _Batches] = {}
        self._lock = threading.Lock()

    def __getitem__(self, step: int) -> PlannedBatch:
        epoch, index = divmod(step, self.steps_per_epoch)
        with self._lock:
            if epoch not in self._epochs:
                self._epochs = {e: batches for e, batches in self._epochs.items() if e == epoch - 1}
                self._epochs[epoch] = self._plan_epoch(epoch)
            batches = self._epochs[epoch]
        return _planned_batch(batches, index, self.buckets, self.image_ids)

    def _plan_epoch(self, epoch: int) -> _Batches:
        images, batch_size = len(self.image_ids), self.batch_size
        copies = -(-batch_size // images)  # 1, unless there are fewer images than rows in a batch
        rows = np.tile(np.arange(images), copies)
        rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))  # only .random(): the same in every NumPy
        views = augmentation.views(self.sizes[rows], rng.random((len(rows), augmentation.DRAWS)), self.data)
        order = np.argsort(rng.random(len(rows)) + np.arange(len(rows)) // images, kind="stable")  # copy after copy
        order = order[: self.steps_per_epoch * batch_size]

        batches = self._cut(order, views.size, self.target_counts[rows])
        batches = batches[np.argsort(rng.random(self.steps_per_epoch), kind="stable")]
        bucket_of, sizes = fit_buckets(views.size[batches], self.target_counts[rows][batches], self.buckets)
        return _Batches(bucket_of, rows[batches], views.take(batches)._replace(size=sizes))

    def _cut(self, order, sizes, counts):
        """Cuts the images in ``order`` into batches [steps B]: full ones of each bucket, then those of the rest."""
        bucket_of, _ = fit_buckets(sizes[order, None], counts[order, None], self.buckets)
        full, left_over = [], []
        # From the widest canvas over the small ones to the tallest, so that neighbours in ``left_over`` fit together.
        signed_areas = [bucket.area * (1 if bucket.height > bucket.width else -1) for bucket in self.buckets]
        for k in np.argsort(signed_areas, kind="stable"):
            members = order[bucket_of == k]
            cut = len(members) - len(members) % self.batch_size
            full.append(members[:cut])
            left_over.append(members[cut:])
        return np.concatenate(full + left_over).reshape(-1, self.batch_size)


class EvalPlan:
    """Every image once, in the one view that ``data`` allows: a sequence of batches, the largest canvas first.

    The last batch of each bucket is filled up with empty rows. Arguments are as for ``TrainPlan``; an image with more
    targets than any bucket holds goes where the most are held.
    """

    def __init__(self, images: ImageTable, data: DataConfig, batch_size: int):
        self.image_ids, self.buckets = images.image_ids, data.buckets
        views = augmentation.views(images.sizes, np.zeros((len(images.sizes), augmentation.DRAWS)), data)
        counts = np.minimum(images.target_counts, max(bucket.targets for bucket in self.buckets))
        bucket_of, final_sizes = fit_buckets(views.size[:, None], counts[:, None], self.buckets)
        filled = []
        for k in np.argsort([-bucket.area for bucket in self.buckets], kind="stable"):
            members = np.flatnonzero(bucket_of == k)
            filled.append(np.append(members, np.full(-len(members) % batch_size, -1)))
        rows = np.concatenate(filled).reshape(-1, batch_size)
        self._batches = _Batches(bucket_of[rows[:, 0]], rows, views._replace(size=final_sizes[:, 0]).take(rows))

    def __len__(self) -> int:
        return len(self._batches.rows)

    def __getitem__(self, step: int) -> PlannedBatch:
        return _planned_batch(self._batches, step, self.buckets, self.image_ids)


def make_train_plan(config: Config, images: ImageTable) -> TrainPlan:
    """The batches of a training, on buckets with room for every image's targets.

    Raises UserError when there is no image, or when one has more objects than the model has queries.
    """
    buckets = make_room(config.data.buckets, images.target_counts, images.image_ids, config.model.num_queries)
    data = dataclasses.replace(config.data, buckets=buckets)
    return TrainPlan(images, data, config.train.batch_size, config.seed)


def make_evaluation_plan(data: DataConfig, images: ImageTable, batch_size: int) -> EvalPlan:
    """Every image once, resized to the largest training scale and not augmented."""
    return EvalPlan(images, augmentation.evaluation_settings(data), batch_size)


def padding_share(plan: TrainPlan) -> float:
    """The share of the pixels of an epoch's canvases, or of its first thousand, that is padding."""
    epoch = [plan[step] for step in range(min(plan.steps_per_epoch, 1000))]
    real = sum(int(planned.views.size.prod(axis=1, dtype=np.int64).sum()) for planned in epoch)
    return 1 - real / sum(planned.bucket.area * len(planned.rows) for planned in epoch)


def digest(batches: Iterable[PlannedBatch]) -> str:
    """Fingerprint of these batches: images, views and canvases. Equal digests train on equal data."""
    sha = hashlib.sha256()
    for batch in batches:
        for field in (np.array(batch.bucket), batch.image_ids, *batch.views):
            sha.update(np.ascontiguousarray(field, "<i8").tobytes())
    return sha.hexdigest()


def _planned_batch(batches: _Batches, index: int, buckets: tuple[Bucket, ...], image_ids) -> PlannedBatch:
    rows = batches.rows[index]
    ids = np.where(rows < 0, -1, image_ids[rows])
    return PlannedBatch(buckets[batches.buckets[index]], rows, ids, batches.views.take(index))
