"""When a run logs, evaluates, saves and ends."""

import pytest

from detr_jax.config import TrainConfig
from detr_jax.training.calendar import Calendar, make_calendar


def due(asks, steps: int) -> list[int]:
    """The steps after which something is due."""
    return [step for step in range(1, steps + 1) if asks(step)]


def test_everything_is_due_in_its_time_and_after_the_last_step():
    calendar = Calendar(steps_per_epoch=5, total_steps=11, log_every=2, evaluate_every=5, save_every=4)
    assert due(calendar.logs, 11) == [2, 4, 6, 8, 10, 11]
    assert due(calendar.evaluates, 11) == [5, 10, 11]
    assert due(calendar.saves, 11) == [4, 8, 11]


def test_the_last_step_is_due_once():
    calendar = Calendar(steps_per_epoch=5, total_steps=10, log_every=5, evaluate_every=100, save_every=10)
    assert due(calendar.logs, 10) == [5, 10]
    assert due(calendar.evaluates, 10) == [10]
    assert due(calendar.saves, 10) == [10]


@pytest.mark.parametrize("steps, epochs, total", [(30, 300, 30), (0, 3, 21)])
def test_steps_win_over_epochs(steps, epochs, total):
    assert make_calendar(TrainConfig(steps=steps, epochs=epochs), 7).total_steps == total


def test_every_0_steps_is_every_epoch():
    train = TrainConfig(epochs=2, log_every=0, eval_every=0, checkpoint_every=0)
    calendar = make_calendar(train, 7)
    assert due(calendar.logs, 14) == due(calendar.evaluates, 14) == due(calendar.saves, 14) == [7, 14]
    train = TrainConfig(epochs=2, log_every=3, eval_every=5, checkpoint_every=4)
    assert make_calendar(train, 7) == Calendar(7, 14, log_every=3, evaluate_every=5, save_every=4)
