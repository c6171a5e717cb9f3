"""From the plan to batches on the devices: read, decode and lay out the images of each step, send them off."""

import contextlib
import functools
import time
from collections.abc import Iterable, Iterator

import grain
import jax

from detr_jax.batches.inputs import ImageSource, PixelReader, Reader, empty_batch
from detr_jax.batches.plan import EvalPlan, PlannedBatch, TrainPlan
from detr_jax.errors import BrokenImage
from detr_jax.structures import Batch

AHEAD = 4  # batches that are prepared before they are asked for, or as many as there are threads


class Pipeline:
    """The batches of steps ``start``, ``start + 1``, ... below ``stop``: this host's rows, as numpy arrays.

    Threads prepare whole batches ahead; their number changes the speed and nothing else. It is a context manager, so
    that the threads end with the loop. The row of a broken image is empty, as ``load_batch`` leaves it.

    Args:
      stop: the step to end before; None is the end of the plan, and a TrainPlan has none.
      part: (which, of how many) equal parts of every batch to read: that of this host.
      threads: 0 prepares each batch when it is asked for, in the caller's thread.
      reader: what the batches hold of the images; None is ``PixelReader()``.
      strict: raise BrokenImage at the batch of a broken image.
    """

    def __init__(
        self,
        images: ImageSource,
        plan: TrainPlan | EvalPlan,
        start: int = 0,
        stop: int | None = None,
        *,
        part: tuple[int, int] = (0, 1),
        threads: int = 8,
        reader: Reader | None = None,
        strict: bool = False,
    ):
        reader = reader or PixelReader()
        if stop is None:
            stop = len(plan) if isinstance(plan, EvalPlan) else 2**62
        steps = grain.MapDataset.source(range(start, stop))
        batches = steps.map(lambda step: load_batch(images, plan[step].shard(*part), reader, strict))
        self._batches = iter(batches.to_iter_dataset(grain.ReadOptions(threads, max(threads, AHEAD))))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads; batches prepared but not taken are lost."""
        self._batches.close()


def load_batch(images: ImageSource, planned: PlannedBatch, reader: Reader, strict: bool = False) -> Batch:
    """Reads the planned images into numpy arrays. Objects beyond the bucket's target slots are left out.

    The row of an image that cannot be decoded is empty: all zero, its id -1, so that it counts nothing. Raises
    BrokenImage, which names the image, in its place if ``strict``.
    """
    batch = empty_batch(reader, planned.bucket, len(planned.rows))
    for row, index in enumerate(planned.rows.tolist()):
        objects = None
        if index >= 0:
            view = planned.views.take(row)
            with contextlib.nullcontext() if strict else contextlib.suppress(BrokenImage):
                objects = reader.read(images, index, view, planned.bucket, batch.inputs, row)
        if objects is None:
            for array in jax.tree.leaves(batch.inputs):
                array[row] = 0
            continue
        boxes, labels = objects
        n = min(len(labels), planned.bucket.targets)
        batch.targets.boxes[row, :n] = boxes[:n]
        batch.targets.labels[row, :n] = labels[:n]
        batch.targets.valid[row, :n] = True
        batch.image_ids[row] = planned.image_ids[row]
    return batch


def to_device(batches: Iterable[Batch], sharding: jax.sharding.Sharding) -> Iterator[tuple[Batch, float]]:
    """Global batches on the devices, made of every host's rows, each with the seconds spent waiting for this host.

    When a batch is handed out the next one is already on its way to the devices, so that transfer and step overlap. On
    the devices ``image_ids`` have 32 bits; ``plan[step].image_ids`` are exact and of all hosts.
    """
    send = functools.partial(jax.make_array_from_process_local_data, sharding)
    batches, under_way, waited = iter(batches), None, 0.0
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is not None:
            batch = jax.tree.map(send, batch)
        if under_way is not None:
            yield under_way, waited
            waited = 0.0
        if batch is None:
            return
        under_way = batch
