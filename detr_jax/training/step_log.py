"""The rows of the log: means over the steps since the last row."""

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from detr_jax.batches.plan import TrainPlan
from detr_jax.config import OptimConfig
from detr_jax.training.calendar import Calendar
from detr_jax.training.optimizer import make_schedule


class LoggedSteps(NamedTuple):
    """What is written of the steps since the last row."""

    row: dict  # means, and sums of what is counted
    broken: list[int]  # steps with images that could not be decoded, counted from 1


class StepLog:
    """Collects the metrics of steps, which are still being computed, until a row is due.

    Args:
      plan: tells the images of each step.
      optim: tells the learning rate of each step.
    """

    def __init__(self, plan: TrainPlan, calendar: Calendar, optim: OptimConfig):
        self._plan, self._calendar, self._lr = plan, calendar, optim.lr
        self._schedule = make_schedule(optim, calendar.total_steps, calendar.steps_per_epoch)
        self._steps: list[tuple[int, dict, float]] = []
        self._begin = time.monotonic()

    def add(self, step: int, metrics: dict[str, jax.Array], waited: float) -> None:
        """Adds a step, counted from 1; ``waited`` is how many seconds its batch was waited for."""
        self._steps.append((step, metrics, waited))

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """The time inside this context is not that of the steps."""
        begin = time.monotonic()
        yield
        self._begin += time.monotonic() - begin

    def take_row(self) -> LoggedSteps:
        """The row of the steps since the last one. Here the host waits for the device, and nowhere else."""
        steps, metrics, waits = zip(*self._steps, strict=True)
        metrics = jax.device_get(list(metrics))
        seconds, last = time.monotonic() - self._begin, steps[-1]
        row = {"step": last, "epoch": last / self._calendar.steps_per_epoch}
        row |= {key: float(np.mean([one[key] for one in metrics])) for key in metrics[0]}
        row |= {key: int(sum(one[key] for one in metrics)) for key in ("skipped", "broken_images")}
        row["lr"] = float(self._schedule(last - 1)) * self._lr
        row["images_per_second"] = len(steps) * self._plan.batch_size / seconds
        row["data_wait"] = sum(waits) / seconds
        memory = jax.local_devices()[0].memory_stats()
        if memory:
            row["device_memory"] = memory["peak_bytes_in_use"]
        broken = [step for step, one in zip(steps, metrics, strict=True) if one["broken_images"]]
        self._steps, self._begin = [], time.monotonic()
        return LoggedSteps(row, broken)
