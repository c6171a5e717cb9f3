"""A budget of minutes as a number of steps: what fits, what cannot, and that a run that goes on keeps it."""

import dataclasses

import pytest

from detr_jax.config import Config, OptimConfig, TrainConfig
from detr_jax.errors import UserError
from detr_jax.training.calendar import make_calendar
from detr_jax.training.time_budget import Times, describe_lengths, fit_to_minutes, keep_lengths

PER_EPOCH = 50


def make(minutes: float, **optim) -> Config:
    return Config(train=TrainConfig(minutes=float(minutes)), optim=OptimConfig(**{"schedule": "cosine"} | optim))


def seconds_of(config: Config, times: Times, spent: float) -> float:
    """What the run takes if everything takes as long as it was measured."""
    calendar = make_calendar(config.train, PER_EPOCH)
    evaluations = sum(calendar.evaluates(step) for step in range(1, calendar.total_steps + 1))
    return spent + times.once + calendar.total_steps * times.step + evaluations * times.evaluation


@pytest.mark.parametrize("minutes", [2, 15, 600])
@pytest.mark.parametrize("step", [0.01, 0.9, 5.0])
@pytest.mark.parametrize("evaluation", [0.5, 30.0])
@pytest.mark.parametrize("once", [0.0, 20.0])
def test_the_run_fills_its_time_and_ends_within_it(minutes, step, evaluation, once):
    times = Times(step, once, evaluation)
    config = fit_to_minutes(make(minutes, warmup_steps=1000), times, 20.0, PER_EPOCH)
    taken = seconds_of(config, times, 20.0)
    assert taken < 60 * minutes
    assert taken > 0.93 * 60 * minutes - 2 * step - evaluation - 5
    evaluations = -(-config.train.steps // config.train.eval_every)
    assert 1 <= evaluations <= 5 and config.train.checkpoint_every == config.train.eval_every
    assert evaluations == 1 or evaluations * evaluation <= 0.15 * 60 * minutes
    assert config.optim.warmup_steps <= 0.1 * config.train.steps


def test_drops_of_the_step_schedule_keep_their_place():
    config = fit_to_minutes(make(60, schedule="step", drop_epoch=200), Times(0.1, 0.0, 10.0), 20.0, PER_EPOCH)
    share = config.optim.drop_epoch * PER_EPOCH / config.train.steps
    assert share == pytest.approx(200 / 300, abs=0.01)
    assert f"optim.drop_epoch={config.optim.drop_epoch}" in describe_lengths(config, Times(0.1, 0.0, 10.0))


def test_too_short_a_time_says_how_long_it_must_be():
    times = Times(2.0, 0.0, 20.0)
    with pytest.raises(UserError, match="train.minutes=0.5 is too short: starting took 25 s.* give it 5$"):
        fit_to_minutes(make(0.5), times, 25.0, PER_EPOCH)
    assert fit_to_minutes(make(5), times, 25.0, PER_EPOCH).train.steps >= 100


def test_a_run_that_goes_on_keeps_its_lengths():
    asked = make(15, warmup_steps=100)
    begun = fit_to_minutes(asked, Times(0.5, 0.0, 5.0), 20.0, PER_EPOCH)
    assert keep_lengths(asked, begun) == begun
    assert keep_lengths(asked, None) == asked
    other = dataclasses.replace(begun, train=dataclasses.replace(begun.train, minutes=10.0))
    assert keep_lengths(asked, other) == asked  # refused later, with the difference
    assert keep_lengths(make(0), begun) == make(0)


def test_what_was_chosen_can_be_typed():
    times = Times(0.5, 0.0, 5.0)
    config = fit_to_minutes(make(15, warmup_steps=20), times, 20.0, PER_EPOCH)
    assert describe_lengths(config, times) == (
        f"train.minutes=15 with 0.5 s a step and 5.0 s an evaluation: train.steps={config.train.steps} "
        f"train.eval_every={config.train.eval_every} train.checkpoint_every={config.train.eval_every} "
        "optim.warmup_steps=20"
    )
