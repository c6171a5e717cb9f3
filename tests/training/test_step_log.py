"""The rows of the log: means of the steps since the last row, the learning rate of the last one, what is counted."""

import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.batches.plan import TrainPlan
from detr_jax.config import OptimConfig
from detr_jax.training.calendar import Calendar
from detr_jax.training.step_log import StepLog
from tests.batches.stored import DATA, make_images

CALENDAR = Calendar(steps_per_epoch=10, total_steps=40, log_every=4, evaluate_every=40, save_every=40)
OPTIM = OptimConfig(lr=0.5, schedule="step", drop_epoch=2)  # drops at step 20


@pytest.fixture
def plan() -> TrainPlan:
    return TrainPlan(make_images(), DATA, batch_size=3, seed=0)


@pytest.fixture
def log(plan, clock) -> StepLog:
    return StepLog(plan, CALENDAR, OPTIM)


def metrics(loss: float, skipped: int = 0, broken: int = 0) -> dict:
    return {"loss": jnp.float32(loss), "skipped": jnp.int32(skipped), "broken_images": jnp.int32(broken)}


def test_a_row_holds_the_means_of_its_steps(log, clock):
    log.add(1, metrics(1.0), waited=0.5)
    log.add(2, metrics(4.0), waited=1.0)
    clock.now += 6.0
    row, broken = log.take_row()
    assert row == {
        "step": 2, "epoch": 0.2, "loss": 2.5, "skipped": 0, "broken_images": 0, "lr": 0.5,
        "images_per_second": 1.0, "data_wait": 0.25,  # 2 steps of 3 images in 6 seconds, of which 1.5 were waited
    }  # fmt: skip
    assert broken == []


def test_the_next_row_knows_nothing_of_the_last_one(log, clock):
    log.add(1, metrics(9.0), waited=9.0)
    clock.now += 6.0
    log.take_row()
    log.add(2, metrics(1.0), waited=0.0)
    clock.now += 3.0
    row = log.take_row().row
    assert row["loss"] == 1.0 and row["images_per_second"] == 1.0 and row["data_wait"] == 0.0


def test_pauses_do_not_count(log, clock):
    clock.now += 1.0
    with log.pause():
        clock.now += 1000.0
    log.add(1, metrics(1.0), waited=0.5)
    clock.now += 1.0
    row = log.take_row().row
    assert row["images_per_second"] == 1.5 and row["data_wait"] == 0.25


def test_the_learning_rate_is_that_of_the_row_s_last_step(log, clock):
    rates = {}
    for step in range(18, 24):
        log.add(step, metrics(1.0), waited=0.0)
        clock.now += 1.0
        rates[step] = log.take_row().row["lr"]
    # Steps are counted from 1 here and from 0 in the schedule: step 21 is the first of the third epoch.
    assert rates == pytest.approx({18: 0.5, 19: 0.5, 20: 0.5, 21: 0.05, 22: 0.05, 23: 0.05})


def test_skipped_steps_are_counted(log, clock):
    log.add(4, metrics(1.0), waited=0.0)
    log.add(5, metrics(np.nan, skipped=1), waited=0.0)
    log.add(6, metrics(np.inf, skipped=1), waited=0.0)
    clock.now += 1.0
    row = log.take_row().row
    assert row["skipped"] == 2 and not np.isfinite(row["loss"])


def test_broken_images_are_counted_and_their_steps_told(log, clock):
    for step, broken in ((1, 0), (2, 2), (3, 1)):
        log.add(step, metrics(1.0, broken=broken), waited=0.0)
    clock.now += 1.0
    logged = log.take_row()
    assert logged.row["broken_images"] == 3 and logged.broken == [2, 3]
