"""The host's work on an image, stage by stage; images a second; and the share of pixels that padding wastes."""

from collections.abc import Callable

import numpy as np

from detr_jax.batches.fitting import fit_to_images
from detr_jax.batches.inputs import ImageSource, Reader, make_reader, read_image
from detr_jax.batches.pipeline import Pipeline, load_batch
from detr_jax.batches.plan import PlannedBatch, make_train_plan, padding_share
from detr_jax.benchmarks import timing
from detr_jax.config import Config
from detr_jax.datasets.split import Split


def measure(
    split: Split, config: Config, images: int = 256, threads: tuple[int, ...] = (1, 2), rounds: int = 3
) -> dict[str, object]:
    """Prepares the first batches of a run, without a model.

    Args:
      images: about how many to prepare in each round, in whole batches.
      threads: the numbers of threads to try.
      rounds: measurements of everything, taken in turns; medians are reported.

    Returns:
      "stages": seconds an image in one thread, of read, decode, view (resizing and boxes) and canvas (the batch's
      arrays and copying); "rates": a row of threads and images a second for each; "waste": the share of padded pixels
      in the first epoch.
    """
    config = fit_to_images(config, split).config
    plan, reader = make_train_plan(config, split), make_reader(config.data, split.sizes)
    steps = max(1, images // plan.batch_size)
    stages = time_stages(split, [plan[step] for step in range(steps)], reader, rounds)

    def make_call(count: int) -> Callable[[], None]:
        def prepare_batches() -> None:
            with Pipeline(split, plan, 0, steps, threads=count, reader=reader) as pipeline:
                for _ in pipeline:
                    pass

        return prepare_batches

    taken = timing.time_in_turns({str(count): make_call(count) for count in threads}, rounds)
    prepared = steps * plan.batch_size
    rates = [{"threads": count, "images_per_second": prepared / taken[str(count)].median} for count in threads]
    return {"stages": stages, "rates": rates, "waste": padding_share(plan)}


def time_stages(source: ImageSource, batches: list[PlannedBatch], reader: Reader, rounds: int) -> dict[str, float]:
    """Seconds an image of every stage: each way below does what the one before it does, and one stage more."""
    views = [
        (int(row), planned.views.take(place), planned.bucket)
        for planned in batches
        for place, row in enumerate(planned.rows)
    ]
    inputs = {bucket: reader.empty(bucket, 1) for _, _, bucket in views}
    ways = {  # ``and None`` lets go of each result at once
        "read": lambda: [source[row] and None for row, _, _ in views],
        "decode": lambda: [read_image(source, row) and None for row, _, _ in views],
        "view": lambda: [reader.read(source, *view, inputs[view[-1]], 0) and None for view in views],
        "canvas": lambda: [load_batch(source, planned, reader) and None for planned in batches],
    }
    until = np.array([taken.median for taken in timing.time_in_turns(ways, rounds).values()])
    return dict(zip(ways, (np.diff(until, prepend=0.0) / len(views)).tolist(), strict=True))
