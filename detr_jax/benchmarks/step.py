"""The training step of a configuration: time, memory and arithmetic on every canvas of its batch plan."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from detr_jax import devices
from detr_jax.batches.fitting import fit_to_images
from detr_jax.batches.inputs import PixelReader, Reader, make_reader
from detr_jax.batches.plan import TrainPlan, make_train_plan
from detr_jax.benchmarks import coco_like, profile, timing
from detr_jax.config import Config
from detr_jax.models.network import Network
from detr_jax.structures import Batch, Bucket
from detr_jax.training.calendar import make_calendar
from detr_jax.training.compiled_steps import CompiledSteps, Say, StepLowering, needed_gigabytes
from detr_jax.training.frozen_features import make_feature_reader
from detr_jax.training.state import make_recipe, start_state, state_shapes
from detr_jax.training.step import Recipe, TrainState

PLANNED = 1000  # steps at the start of a run whose canvases are counted


class Training(NamedTuple):
    """A training on made-up images."""

    recipe: Recipe
    plan: TrainPlan
    reader: Reader

    @property
    def batch_size(self) -> int:
        """Images of a step."""
        return self.plan.batch_size


def make_training(config: Config, seed: int = 0, on: Sequence[jax.Device] | None = None) -> Training:
    """The training of a configuration on images of COCO's sizes; ``on`` are its devices, by default all there are.

    Raises UserError when the batch cannot be split over the devices, or when objects exceed the model's queries.
    """
    mesh, images = devices.make_mesh(config.train.fsdp, on), coco_like.ImageSizes(seed=seed)
    devices.check_training(config.train, mesh)
    config = fit_to_images(config, images).config
    plan = make_train_plan(config, images)
    recipe = make_recipe(config, images.categories, make_calendar(config.train, plan.steps_per_epoch), mesh)
    if not config.train.cache_features:
        return Training(recipe, plan, make_reader(config.data, images.sizes))
    shapes = state_shapes(recipe)
    zeros = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.frozen.items()}  # only shapes matter
    return Training(recipe, plan, make_feature_reader(recipe, shapes._replace(frozen=zeros), plan.buckets[0]))


class RepeatedStep:
    """A training step on the same batch again and again. A call returns its metrics, still being computed."""

    def __init__(self, compiled: jax.stages.Compiled, state: TrainState, batch: Batch):
        self.compiled, self.state, self._batch = compiled, state, batch

    def __call__(self) -> dict[str, jax.Array]:
        self.state, metrics = self.compiled(self.state, self._batch)  # the old state is donated
        return metrics


def measure_matmul_rate(dtype: str, side: int) -> float:
    """FLOP/s of one large matrix product of this type: the best that the hardware does."""
    a = jnp.ones((side, side), dtype)
    product = jax.jit(lambda a: a @ a)
    taken = timing.time_in_turns({"product": lambda: product(a)}, rounds=5, warm_up=2)
    return 2 * side**3 / taken["product"].least


def list_kept(
    network: Network, freeze: tuple[str, ...], batch_size: int, bucket: Bucket, reader: Reader | None = None
) -> list[jax.ShapeDtypeStruct]:
    """The arrays that the model asks the compiler to keep for the backward pass, weights included.

    The compiler may need fewer. Nothing is computed, so this does not depend on the machine; it shows what
    ``train.remat`` is worth. ``reader`` gives the inputs; by default they are ``Pixels``.
    """
    empty = (reader or PixelReader()).empty(bucket, 1)
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype), empty)

    def differentiate(arrays, inputs):
        params, frozen = network.partition(arrays, freeze)
        key = jax.random.key(0, impl="rbg")
        return jax.vjp(lambda params: network.apply({**params, **frozen}, inputs, key), params)[1]

    return jax.tree.leaves(jax.eval_shape(differentiate, network.shapes, inputs))


def sum_gigabytes(arrays: list[jax.ShapeDtypeStruct]) -> float:
    """Their size in memory."""
    return sum(array.size * array.dtype.itemsize for array in arrays) / 1e9


def time_dispatch(step: RepeatedStep, calls: int) -> timing.Timing:
    """Host time until the call of a step returns, on idle devices."""
    seconds = []
    for _ in range(calls):
        begin = time.perf_counter()
        metrics = step()
        seconds.append(time.perf_counter() - begin)
        jax.block_until_ready(metrics)
    return timing.summarize(seconds)


def count_canvases(plan: TrainPlan, most: int | None) -> dict[Bucket, int]:
    """How often each canvas is planned, the most frequent first; only ``most`` of them."""
    steps = range(min(plan.steps_per_epoch, PLANNED))
    return dict(Counter(plan[step].bucket for step in steps).most_common(most))


def make_device_batch(training: Training, bucket: Bucket, rng: np.random.Generator) -> Batch:
    """A made-up batch on the devices, in the form in which the training reads its images."""
    batch = coco_like.make_batch(bucket, training.batch_size, coco_like.CLASSES, rng)
    inputs = coco_like.make_inputs(batch.inputs, training.reader, bucket, rng)
    return jax.device_put(batch._replace(inputs=inputs), devices.batch_sharding(training.recipe.mesh))


def measure_canvas(training: Training, bucket: Bucket, step: RepeatedStep, rounds: int, rate: float) -> dict:
    """The row of one canvas; ``rate`` is that of ``measure_matmul_rate``."""
    recipe, batch_size = training.recipe, training.batch_size
    taken = timing.time_in_turns({"step": step}, rounds)["step"]
    flops = step.compiled.cost_analysis()["flops"]
    kept = list_kept(recipe.network, recipe.config.freeze, batch_size, bucket, training.reader)
    return {
        "canvas": f"{bucket.height}x{bucket.width}",
        "step": taken,
        "finite": not int(step.state.skipped),
        "images_per_second": batch_size / taken.median,
        "gflop_per_image": flops / batch_size / 1e9,
        "of_matmul_rate": flops / taken.median / rate / recipe.mesh.size,
        "gigabytes": needed_gigabytes(step.compiled),
        "kept_gigabytes": sum_gigabytes(kept),
    }


def measure(
    config: Config, rounds: int, seed: int, say: Say, traces: Path | None = None, most: int | None = None
) -> dict[str, object]:
    """Runs the step of a configuration on made-up images and objects, with COCO's sizes and counts.

    Args:
      rounds: measured steps on each canvas.
      say: gets a line for each compiled canvas.
      traces: folder for a profile of the most frequent canvas.
      most: only so many canvases, the most frequent ones; each takes its time to compile.

    Returns:
      "canvases": a row for each, the most frequent first; "images_per_second" over the plan's mix; "matmul_tflops" of
      the hardware; "dispatch_ms"; with ``traces`` also the fields of ``profile.Shares``.
    """
    training, rng = make_training(config, seed), np.random.default_rng(seed)
    canvases = count_canvases(training.plan, most)
    state, _ = start_state(training.recipe, say)
    steps = CompiledSteps(StepLowering(training.recipe, training.reader), say)
    on_cpu = jax.default_backend() == "cpu"
    rate = measure_matmul_rate(config.dtype, 1024 if on_cpu else 8192)
    rows, profiled = {}, {}
    for bucket in sorted(canvases, key=lambda bucket: -bucket.area):  # the largest first: it may not fit
        batch, begin = make_device_batch(training, bucket, rng), time.perf_counter()
        step = RepeatedStep(steps.compiled(state, bucket), state, batch)
        compile_seconds = time.perf_counter() - begin
        row = {"share": canvases[bucket] / sum(canvases.values())}
        row |= measure_canvas(training, bucket, step, rounds, rate)
        rows[bucket] = row | {"compile_seconds": compile_seconds}
        dispatch = time_dispatch(step, 5 if on_cpu else 30)
        if traces is not None and bucket == next(iter(canvases)):
            profiled = profile.profile_calls(step.compiled, step, traces)._asdict()
        state = step.state
    return {
        "batch_size": training.batch_size,
        "images_per_second": training.batch_size / sum(row["share"] * row["step"].median for row in rows.values()),
        "matmul_tflops": rate / 1e12,
        "dispatch_ms": dispatch.median * 1e3,
        "canvases": [rows[bucket] for bucket in canvases],
        **profiled,
    }
