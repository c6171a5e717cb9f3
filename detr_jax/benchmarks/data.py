"""What the host does for an image, stage by stage, how many images it prepares in a second, and what padding wastes."""

from collections.abc import Callable

import numpy as np

from detr_jax.benchmarks import timing
from detr_jax.batches.inputs import Pictures, Source, chosen, read
from detr_jax.batches.pipeline import Pipeline, load
from detr_jax.batches.plan import PlannedBatch, TrainPlan
from detr_jax.datasets.split import Split
from detr_jax.training.trainer import make_plan


def measure(
    split: Split, config: dict, images: int = 256, threads: tuple[int, ...] = (1, 2), rounds: int = 3
) -> dict[str, object]:
    """Prepares the first batches of a run, without a model.

    Args:
      images: about how many to prepare in each round, in whole batches.
      threads: the numbers of threads to try.
      rounds: measurements of everything, taken in turns; medians are reported.

    Returns:
      "stages": seconds an image in one thread, each of read, decode, view (resizing and boxes) and canvas (the batch's
      arrays and copying); "rates": a row of threads and images a second for each; "waste": the share of padded pixels
      in the first epoch.
    """
    plan, pictures = make_plan(config, split), chosen(config["data"]["resize"], split.sizes)
    steps = max(1, images // plan.batch_size)
    batches = [plan[step] for step in range(steps)]
    stages = stage_seconds(split, batches, pictures, rounds)

    def prepare(count: int) -> Callable[[], None]:
        def all_batches() -> None:
            with Pipeline(split, plan, 0, steps, threads=count, pictures=pictures) as pipeline:
                for _ in pipeline:
                    pass

        return all_batches

    taken = timing.in_turns({str(count): prepare(count) for count in threads}, rounds)
    prepared = steps * plan.batch_size
    rates = [{"threads": n, "images_per_second": prepared / taken[str(n)].median} for n in threads]
    return {"stages": stages, "rates": rates, "waste": waste(plan)}


def stage_seconds(source: Source, batches: list[PlannedBatch], pictures: Pictures, rounds: int) -> dict[str, float]:
    """Seconds an image of every stage: each way below does what the one before it does, and a stage more."""
    looks = [
        (int(row), planned.views.take(place), planned.bucket)
        for planned in batches
        for place, row in enumerate(planned.rows)
    ]
    canvases = {bucket: np.empty(pictures.shape(bucket), pictures.dtype) for _, _, bucket in looks}
    ways = {
        "read": lambda: [source[row] for row, _, _ in looks],
        "decode": lambda: [read(source, row) and None for row, _, _ in looks],
        "view": lambda: [pictures(source, *look, canvases[look[-1]]) and None for look in looks],
        "canvas": lambda: [load(source, planned, pictures) and None for planned in batches],
    }
    until = np.array([taken.median for taken in timing.in_turns(ways, rounds).values()])
    return dict(zip(ways, (np.diff(until, prepend=0.0) / len(looks)).tolist(), strict=True))


def waste(plan: TrainPlan) -> float:
    """The share of pixels of an epoch's canvases that are padding."""
    epoch = [plan[step] for step in range(plan.steps_per_epoch)]
    real = sum(int(planned.views.size.prod(axis=1, dtype=np.int64).sum()) for planned in epoch)
    return 1 - real / sum(planned.bucket.area * len(planned.rows) for planned in epoch)
