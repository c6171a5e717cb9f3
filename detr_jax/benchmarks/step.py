"""The training step of a configuration: time, memory and arithmetic on every canvas of its batch plan."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from detr_jax import devices
from detr_jax.benchmarks import coco_like, profile, timing
from detr_jax.batches.canvases import Bucket
from detr_jax.models.network import Network
from detr_jax.training.compiled_steps import needed_gigabytes
from detr_jax.training.trainer import Trainer


class Steps:
    """Training steps on one batch; a call runs one and returns its metrics, still being computed."""

    def __init__(self, trainer: Trainer, state, batch, bucket: Bucket, say: Callable[[str], None]):
        self.trainer, self.state, self.bucket = trainer, state, bucket
        self.batch = jax.device_put(batch, devices.batch_sharding(trainer.mesh))
        self.compiled = trainer.compiled(state, bucket, say)

    def __call__(self):
        self.state, metrics = self.compiled(self.state, self.batch)  # the old state is given away
        return metrics


def matmul_rate(dtype: str, side: int) -> float:
    """FLOP/s of one large matrix product of this type: what the hardware gives at best."""
    a = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * side**3 / timing.in_turns({"product": lambda: product(a)}, rounds=5, warm_up=2)["product"].least


def kept(network: Network, freeze: tuple[str, ...], batch_size: int, bucket: Bucket) -> list[jax.ShapeDtypeStruct]:
    """What the model asks the compiler to keep for the backward pass, weights included; the compiler may need less.

    It does not depend on the machine: nothing is computed, and it shows what ``train.remat`` is worth.
    """
    images = jax.ShapeDtypeStruct((batch_size, bucket.height, bucket.width, 3), np.uint8)
    sizes = jax.ShapeDtypeStruct((batch_size, 2), np.int32)

    def backward(arrays, images, sizes):
        params, frozen = network.partition(arrays, freeze)
        key = jax.random.key(0, impl="rbg")
        return jax.vjp(lambda params: network.apply({**params, **frozen}, images, sizes, key), params)[1]

    return jax.tree.leaves(jax.eval_shape(backward, network.shapes, images, sizes))


def gigabytes(arrays: list[jax.ShapeDtypeStruct]) -> float:
    """Their size in memory."""
    return sum(array.size * array.dtype.itemsize for array in arrays) / 1e9


def dispatch_seconds(steps: Steps, calls: int = 30) -> timing.Timing:
    """Host time until the call of a step returns, while nothing else is under way."""
    taken = []
    for _ in range(calls):
        begin = time.perf_counter()
        metrics = steps()
        taken.append(time.perf_counter() - begin)
        jax.block_until_ready(metrics)
    return timing.of(taken)


def measure(
    config: dict,
    rounds: int,
    seed: int,
    say: Callable[[str], None],
    traces: Path | None = None,
    most: int | None = None,
) -> dict[str, object]:
    """Runs the step of a configuration on made-up images and objects, with COCO's sizes and counts.

    Args:
      rounds: measured steps on each canvas.
      traces: folder for a profile of the most frequent canvas.
      most: only so many canvases, the most frequent ones; each takes its time to compile.

    Returns:
      "canvases": a row for each, the most frequent first; "images_per_second" over the plan's mix; "matmul_tflops" of
      the hardware; "dispatch_ms"; with ``traces`` also the fields of ``profile.Shares``.
    """
    trainer = Trainer(config, coco_like.Images(seed=seed))
    steps_seen = range(min(trainer.steps_per_epoch, 1000))
    shares = dict(Counter(trainer.plan[k].bucket for k in steps_seen).most_common(most))
    classes, rng = coco_like.CLASSES, np.random.default_rng(seed)
    state, freeze = trainer.start(say), tuple(config["freeze"])
    rows, profiled = [], {}
    on_cpu = jax.default_backend() == "cpu"
    rate = matmul_rate(config["dtype"], 1024 if on_cpu else 8192)
    for bucket, count in sorted(shares.items(), key=lambda item: -item[0].area):  # the largest first: it may not fit
        batch = coco_like.batch(bucket, trainer.batch_size, classes, rng)
        if trainer.pictures.unseen:
            batch = coco_like.unseen(batch, trainer.pictures.shape(bucket), rng)
        begin = time.perf_counter()
        steps = Steps(trainer, state, batch, bucket, say)
        compile_seconds = time.perf_counter() - begin
        taken = timing.in_turns({"step": steps}, rounds)["step"]
        flops = steps.compiled.cost_analysis()["flops"]
        rows.append(
            {
                "canvas": f"{bucket.height}x{bucket.width}",
                "share": count / sum(shares.values()),
                "step": taken,
                "finite": not int(steps.state.skipped),
                "images_per_second": trainer.batch_size / taken.median,
                "gflop_per_image": flops / trainer.batch_size / 1e9,
                "of_matmul_rate": flops / taken.median / rate / trainer.mesh.size,
                "gigabytes": needed_gigabytes(steps.compiled),
                "kept_gigabytes": gigabytes(kept(trainer.network, freeze, trainer.batch_size, bucket)),
                "compile_seconds": compile_seconds,
            }
        )
        dispatch = dispatch_seconds(steps, 5 if on_cpu else 30)
        if traces is not None and bucket == max(shares, key=shares.get):
            profiled = profile.shares(steps.compiled, steps, traces)._asdict()
        state = steps.state
    rows.sort(key=lambda row: -row["share"])
    return {
        "batch_size": trainer.batch_size,
        "images_per_second": trainer.batch_size / sum(row["share"] * row["step"].median for row in rows),
        "matmul_tflops": rate / 1e12,
        "dispatch_ms": dispatch.median * 1e3,
        "canvases": rows,
        **profiled,
    }
