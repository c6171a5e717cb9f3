"""The training step compiled for every canvas of a run, and what is compiled when."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from detr_jax.batches.canvases import Bucket

Say = Callable[[str], None]


def needed_gigabytes(compiled: jax.stages.Compiled) -> float:
    """What a compiled program needs on each device: its arguments and its temporary memory."""
    memory = compiled.memory_analysis()
    return (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 1e9


class CompiledSteps:
    """Programs by canvas, each compiled once; while one is, or is loaded from the cache, the next is traced.

    Args:
      lower: (shapes of the state, canvas) -> the traced step.
    """

    def __init__(self, lower: Callable[..., jax.stages.Lowered]):
        self._lower = lower
        self._programs: dict[Bucket, Future[jax.stages.Compiled]] = {}
        self._tracer, self._compiler = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._first_metrics: Future[dict[str, jax.Array]] = Future()  # of the first step that this process takes

    def get(self, state, bucket: Bucket, say: Say) -> jax.stages.Compiled:
        """The step for batches on this canvas, compiled when it is first asked for; ``say`` then gets a line of it."""
        return self._program(state, bucket, say).result()

    def begun(self, metrics: dict[str, jax.Array]) -> None:
        """To be called with what a step returned: the first one is what ``ahead`` waits for."""
        if not self._first_metrics.done():
            self._first_metrics.set_result(metrics)

    @contextlib.contextmanager
    def ahead(self, state, coming: Sequence[Bucket], say: Say) -> Iterator[None]:
        """Compiles for the canvases of the coming steps: the largest, then the others as the steps need them.

        The context begins when the largest and that of the first step are there: what does not fit shows before step 1.
        The others follow once that step is done, beside the next ones, each of which waits for its own; what was not
        begun at the end of the context never is. A GPU's compiler times kernels on the device, so there all come first.
        """
        largest = sorted(coming, key=lambda bucket: (bucket.area, bucket.targets))[-1:]
        first = coming if jax.default_backend() == "gpu" else coming[:1]
        programs = [self._program(state, bucket, say) for bucket in dict.fromkeys([*largest, *first])]
        for bucket in dict.fromkeys(coming):
            self._program(state, bucket, say, after=self._first_metrics)
        try:
            for program in programs:
                program.result()
            yield
        finally:
            self._first_metrics.cancel()
            for worker in (self._tracer, self._compiler):
                worker.shutdown(wait=False, cancel_futures=True)

    def _program(self, state, bucket: Bucket, say: Say, after: Future | None = None) -> Future[jax.stages.Compiled]:
        """The program, once it is compiled; nothing is done before the arrays that ``after`` will hold are computed."""
        if bucket not in self._programs:
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
            lowered = self._tracer.submit(self._lowered, shapes, bucket, after)
            self._programs[bucket] = self._compiler.submit(self._compile, bucket, lowered, say)
        return self._programs[bucket]

    def _lowered(self, shapes, bucket: Bucket, after: Future | None) -> jax.stages.Lowered:
        if after is not None:
            jax.block_until_ready(after.result())
        return self._lower(shapes, bucket)

    def _compile(self, bucket: Bucket, lowered: Future, say: Say) -> jax.stages.Compiled:
        traced, begin = lowered.result(), time.monotonic()
        compiled = traced.compile()
        say(
            f"compiled {bucket.height}x{bucket.width}, {bucket.targets} targets: "
            f"{time.monotonic() - begin:.1f} s, needs {needed_gigabytes(compiled):.2f} GB on each device"
        )
        return compiled
