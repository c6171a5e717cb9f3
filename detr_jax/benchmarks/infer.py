"""Inference: latency of one image and throughput of a batch, on one canvas."""

from collections.abc import Callable

import jax
import numpy as np

from detr_jax import devices
from detr_jax.benchmarks import coco_like, timing
from detr_jax.config import Config
from detr_jax.datasets.coco import COCO_CATEGORIES
from detr_jax.inference.detector import Detector, make_detector
from detr_jax.models import detr
from detr_jax.structures import Bucket


def make_call(detector: Detector, bucket: Bucket, batch_size: int, seed: int) -> Callable[[], object]:
    """A call that detects in one batch of noise, from uint8 pixels to scores, labels and boxes."""
    mesh = detector.mesh
    batch = coco_like.make_batch(bucket, batch_size, 1, np.random.default_rng(seed))
    sharding = devices.batch_sharding(mesh) if batch_size % mesh.size == 0 else devices.replicated(mesh)
    batch = jax.device_put(batch, sharding)
    return lambda: detector.detect(detector.arrays, batch)


def measure(
    config: Config, canvas: tuple[int, int], batch_sizes: tuple[int, ...], rounds: int, seed: int
) -> list[dict]:
    """A row for each batch size. Weights are random, which takes as long as trained ones."""
    mesh = devices.make_mesh()
    network = detr.network(config.model, coco_like.CLASSES, dtype=config.dtype)
    arrays = jax.jit(network.init, out_shardings=devices.replicated(mesh))(jax.random.key(seed))
    detector = make_detector(network, arrays, COCO_CATEGORIES, config.model, config.data, mesh)
    ways = {f"batch {size}": make_call(detector, Bucket(*canvas, 1), size, seed) for size in batch_sizes}
    taken = timing.time_in_turns(ways, rounds, warm_up=2)
    return [
        {
            "canvas": f"{canvas[0]}x{canvas[1]}",
            "batch_size": size,
            "call": of_size,
            "images_per_second": size / of_size.median,
        }
        for size, of_size in zip(batch_sizes, taken.values(), strict=True)
    ]
