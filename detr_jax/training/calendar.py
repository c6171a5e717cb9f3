"""When a run logs, evaluates, saves and ends."""

from typing import NamedTuple

from detr_jax.config import TrainConfig


class Calendar(NamedTuple):
    """What is due after a step, counted from 1. Everything is due after the last one."""

    steps_per_epoch: int
    total_steps: int
    log_every: int
    evaluate_every: int
    save_every: int

    def logs(self, step: int) -> bool:
        """Whether a row of the log is due."""
        return self._due(step, self.log_every)

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due."""
        return self._due(step, self.evaluate_every)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due."""
        return self._due(step, self.save_every)

    def _due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.total_steps


def make_calendar(train: TrainConfig, steps_per_epoch: int) -> Calendar:
    """The calendar of a run; what happens every 0 steps happens every epoch."""
    return Calendar(
        steps_per_epoch,
        train.steps or train.epochs * steps_per_epoch,
        train.log_every or steps_per_epoch,
        train.eval_every or steps_per_epoch,
        train.checkpoint_every or steps_per_epoch,
    )
