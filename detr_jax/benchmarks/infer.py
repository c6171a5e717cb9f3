"""Inference: latency of one image and throughput of a batch, on one canvas."""

from collections.abc import Callable

import jax
import numpy as np

from detr_jax.inference import detector
from detr_jax import devices
from detr_jax.benchmarks import coco_like, timing
from detr_jax.batches.canvases import Bucket
from detr_jax.models.network import Arrays, Network


def on_canvas(
    network: Network, arrays: Arrays, class_scores: str, bucket: Bucket, batch_size: int, seed: int
) -> Callable[[], object]:
    """A call that finds the objects of one batch of noise, from uint8 pixels to scores, labels and boxes."""
    mesh = devices.make_mesh()
    detect = detector.detect_function(network, class_scores, mesh)
    batch = coco_like.batch(bucket, batch_size, 1, np.random.default_rng(seed))
    where = devices.batch_sharding(mesh) if batch_size % mesh.size == 0 else devices.replicated(mesh)
    images, sizes = jax.device_put((batch.images, batch.sizes), where)
    return lambda: detect(arrays, images, sizes)


def measure(config: dict, canvas: tuple[int, int], batch_sizes: tuple[int, ...], rounds: int, seed: int) -> list[dict]:
    """A row for each batch size; random weights, which cost what trained ones do."""
    network = detector.build_network(config, coco_like.CLASSES)
    arrays = jax.jit(network.init, out_shardings=devices.replicated(devices.make_mesh()))(jax.random.key(seed))
    scores = config["model"]["class_scores"]
    ways = {f"batch {size}": on_canvas(network, arrays, scores, Bucket(*canvas, 1), size, seed) for size in batch_sizes}
    taken = timing.in_turns(ways, rounds, warm_up=2)
    return [
        {
            "canvas": f"{canvas[0]}x{canvas[1]}",
            "batch_size": size,
            "call": of_size,
            "images_per_second": size / of_size.median,
        }
        for size, of_size in zip(batch_sizes, taken.values(), strict=True)
    ]
