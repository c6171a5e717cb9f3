"""From the plan to batches: read, decode, look at each image as planned, lay it on the canvas, send it off."""

import functools
import time
from collections.abc import Iterable, Iterator

import grain
import jax
import numpy as np

from detr_jax.batches.inputs import PIXELS, Pictures, Source
from detr_jax.batches.plan import EvalPlan, PlannedBatch, TrainPlan
from detr_jax.structures import Batch, Targets


class Pipeline:
    """The batches of steps ``start``, ``start + 1``, ... up to ``stop``: this host's rows, as numpy arrays.

    Threads prepare whole batches ahead, at most ``ahead`` of them; how many threads changes the speed and nothing else.
    Use it as a context manager (or call ``close``), so that the threads end with the loop. A broken image raises
    UserError at its batch: leaving it out would make the run another one.

    Args:
        stop: the step before which to end; None is the end of the plan, and a TrainPlan has none.
        host, hosts: which of how many equal parts of every batch to read.
        threads: 0 prepares each batch when it is asked for, in the caller's thread.
        pictures: what goes onto the canvases.
    """

    def __init__(
        self,
        source: Source,
        plan: TrainPlan | EvalPlan,
        start: int = 0,
        stop: int | None = None,
        host: int = 0,
        hosts: int = 1,
        threads: int = 8,
        ahead: int = 4,
        pictures: Pictures = PIXELS,
    ):
        if stop is None:
            stop = len(plan) if isinstance(plan, EvalPlan) else 2**62
        steps = grain.MapDataset.source(range(start, stop))
        batches = steps.map(lambda step: load(source, plan[step].shard(host, hosts), pictures))
        self._batches = iter(batches.to_iter_dataset(grain.ReadOptions(threads, max(threads, ahead))))

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


def load(source: Source, planned: PlannedBatch, pictures: Pictures = PIXELS) -> Batch:
    """Reads the planned images; every array is numpy. An image's objects beyond the bucket's slots are left out.

    Raises UserError, which names the image, when one cannot be read.
    """
    rows, slots = len(planned.rows), planned.bucket.targets
    batch = Batch(
        images=np.empty((rows, *pictures.shape(planned.bucket)), pictures.dtype),  # filled below, its margins too
        sizes=np.zeros((rows, 2), np.int32),
        targets=Targets(
            boxes=np.zeros((rows, slots, 4), np.float32),
            labels=np.zeros((rows, slots), np.int32),
            valid=np.zeros((rows, slots), bool),
        ),
        image_ids=planned.image_ids,
        views=planned.views if pictures.unseen else None,
    )
    batch.images[planned.rows < 0] = 0
    for row in np.flatnonzero(planned.rows >= 0):
        view = planned.views.take(int(row))
        canvas = batch.images[row]
        (h, w), boxes, labels = pictures(source, int(planned.rows[row]), view, planned.bucket, canvas)
        canvas[h:], canvas[:h, w:], n = 0, 0, min(len(labels), slots)
        batch.sizes[row] = (h, w) if pictures.unseen else view.size
        batch.targets.boxes[row, :n] = boxes[:n]
        batch.targets.labels[row, :n] = labels[:n]
        batch.targets.valid[row, :n] = True
    return batch


def to_device(batches: Iterable[Batch], sharding: jax.sharding.Sharding) -> Iterator[tuple[Batch, float]]:
    """Global device batches, made of every host's rows, each with the seconds spent waiting for the host to prepare.

    One batch is already under way to the devices when the one before it is handed out, so the transfer overlaps with
    the step. On the devices ``image_ids`` are 32 bit; ``plan[step].image_ids`` are exact and of all hosts.
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
