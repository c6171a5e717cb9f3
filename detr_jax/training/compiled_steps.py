"""The training step, compiled once for every canvas of a run."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import jax

from detr_jax import devices
from detr_jax.batches.inputs import Reader, batch_shapes
from detr_jax.batches.plan import TrainPlan
from detr_jax.structures import Batch, Bucket
from detr_jax.training.step import Recipe, TrainState, train_step

Say = Callable[[str], None]
LOOK_AHEAD = 1000  # steps whose canvases are compiled ahead


def coming_buckets(plan: TrainPlan, first_step: int, total_steps: int) -> list[Bucket]:
    """The canvases of the next steps, as far as they are compiled ahead."""
    return [plan[step].bucket for step in range(first_step, min(total_steps, first_step + LOOK_AHEAD))]


def largest_bucket(buckets: Sequence[Bucket]) -> Bucket:
    """The one whose step needs the most memory."""
    return max(buckets, key=lambda bucket: (bucket.area, bucket.targets))


def needed_gigabytes(compiled: jax.stages.Compiled) -> float:
    """What a compiled program needs on each device: its arguments and its temporary memory."""
    memory = compiled.memory_analysis()
    return (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e9


class StepLowering:
    """Traces the training step for a canvas.

    Args:
      recipe: what the step is made of.
      reader: what the batches hold of their images.
    """

    def __init__(self, recipe: Recipe, reader: Reader):
        self._reader, self._batch_size = reader, recipe.config.train.batch_size
        self._sharding = devices.batch_sharding(recipe.mesh)
        self._step = partial(train_step, recipe=recipe)

    def __call__(self, state: TrainState, bucket: Bucket) -> jax.stages.Lowered:
        """The traced step; of ``state`` only shapes and shardings matter."""
        batch = batch_shapes(self._reader, bucket, self._batch_size, self._sharding)
        # The new state lies as the old one does: the compiler would split more of it, and the next step would not fit.
        where = jax.tree.map(lambda leaf: leaf.sharding, state)
        return jax.jit(self._step, donate_argnums=0, out_shardings=(where, None)).lower(state, batch)


class CompiledSteps:
    """Training steps: ``state, metrics = steps(state, batch, bucket)`` compiles for a canvas when it is first needed.

    While one canvas is compiled, or loaded from the cache, the next one is traced.

    Args:
      lower: traces the step, see ``StepLowering``.
      say: gets a line for each compiled canvas; may be set anew.
      accept: gets each program before it is used, and raises where it must not be.
    """

    def __init__(
        self,
        lower: Callable[[TrainState, Bucket], jax.stages.Lowered],
        say: Say,
        accept: Callable[[jax.stages.Compiled, Bucket], None] = lambda compiled, bucket: None,
    ):
        self._lower, self.say, self._accept = lower, say, accept
        self._programs: dict[Bucket, Future[jax.stages.Compiled]] = {}
        self._tracer, self._compiler = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._first_metrics: Future[dict[str, jax.Array]] = Future()  # of the first step that this process takes

    def __call__(self, state: TrainState, batch: Batch, bucket: Bucket) -> tuple[TrainState, dict[str, jax.Array]]:
        """One step; what it returns is still being computed. The old state is donated."""
        state, metrics = self.compiled(state, bucket)(state, batch)
        if not self._first_metrics.done():
            self._first_metrics.set_result(metrics)
        return state, metrics

    def compiled(self, state: TrainState, bucket: Bucket) -> jax.stages.Compiled:
        """The step for batches on this canvas."""
        return self._submit(state, bucket).result()

    @contextlib.contextmanager
    def compile_ahead(self, state: TrainState, coming: Sequence[Bucket]) -> Iterator[None]:
        """Compiles for the canvases of the coming steps: the largest first, the others as the steps need them.

        The context begins when the step is compiled for the largest canvas and for the first one, so that what does not
        fit into memory shows before step 1. The others are compiled beside the steps, once the first step is done;
        what has not begun at the end of the context never is. On a GPU all come first, because its compiler times
        kernels on the device.
        """
        largest = [largest_bucket(coming)] if coming else []
        first = coming if jax.default_backend() == "gpu" else coming[:1]
        programs = [self._submit(state, bucket) for bucket in dict.fromkeys([*largest, *first])]
        for bucket in dict.fromkeys(coming):
            self._submit(state, bucket, after=self._first_metrics)
        try:
            for program in programs:
                program.result()
            yield
        finally:
            self._first_metrics.cancel()
            for worker in (self._tracer, self._compiler):
                worker.shutdown(wait=False, cancel_futures=True)

    def _submit(self, state, bucket: Bucket, after: Future | None = None) -> Future[jax.stages.Compiled]:
        """The program to be; tracing waits until the arrays in ``after`` are computed."""
        if bucket not in self._programs:
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
            lowered = self._tracer.submit(self._trace, shapes, bucket, after)
            self._programs[bucket] = self._compiler.submit(self._compile, bucket, lowered)
        return self._programs[bucket]

    def _trace(self, shapes, bucket: Bucket, after: Future | None) -> jax.stages.Lowered:
        if after is not None:
            jax.block_until_ready(after.result())
        return self._lower(shapes, bucket)

    def _compile(self, bucket: Bucket, lowered: Future) -> jax.stages.Compiled:
        traced, begin = lowered.result(), time.monotonic()
        compiled = traced.compile()
        self.say(
            f"compiled {bucket.height}x{bucket.width}, {bucket.targets} targets: "
            f"{time.monotonic() - begin:.1f} s, needs {needed_gigabytes(compiled):.2f} GB on each device"
        )
        self._accept(compiled, bucket)
        return compiled
