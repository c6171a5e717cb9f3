"""Steps that are not finite: each has its file, and the limit in a row is exact; the host does not wait."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.batches.plan import TrainPlan
from detr_jax.errors import UserError
from detr_jax.training.skipped_steps import LAG, SkippedSteps
from tests.batches.stored import DATA, make_images

PLAN = TrainPlan(make_images(), DATA, batch_size=3, seed=0)


def metrics(skipped: int) -> dict:
    return {"loss": jnp.float32(np.nan if skipped else 1.0), "skipped": jnp.int32(skipped)}


def make(folder, limit: int = 3, in_a_row: int = 0) -> SkippedSteps:
    return SkippedSteps(PLAN, limit, folder, in_a_row)


def count_steps(skipped: SkippedSteps, bad: list[int], first: int = 1) -> int:
    """The step at which the run ends; the number of steps if it does not."""
    for step, one in enumerate(bad, start=first):
        try:
            skipped.add(step, metrics(one))
        except UserError as error:
            assert "\n" not in str(error)
            return step
    skipped.settle()
    return first + len(bad) - 1


def test_the_limit_is_kept_exactly(tmp_path):
    skipped = make(tmp_path)
    for step in (1, 2, 3):
        skipped.add(step, metrics(1))
    with pytest.raises(UserError, match="the last 3 steps, up to step 3,.*the same command goes on") as caught:
        skipped.settle()
    assert str(tmp_path / "nan_report") in str(caught.value)
    assert len(list((tmp_path / "nan_report").iterdir())) == 3


def test_it_ends_as_soon_as_the_limit_is_seen(tmp_path):
    assert count_steps(make(tmp_path), [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]) == 5 + LAG


def test_one_less_than_the_limit_goes_on(tmp_path):
    assert count_steps(make(tmp_path), [1, 1, 0] * 5) == 15
    assert len(list((tmp_path / "nan_report").iterdir())) == 10


def test_the_count_goes_on_over_a_resume(tmp_path):
    skipped = make(tmp_path, in_a_row=2)
    skipped.add(8, metrics(1))
    with pytest.raises(UserError, match="the last 3 steps, up to step 8"):
        skipped.settle()
    assert count_steps(make(tmp_path, in_a_row=2), [0, 1, 1, 0], first=8) == 11


def test_the_host_never_waits_for_the_newest_steps(tmp_path):
    skipped = make(tmp_path)
    skipped.add(1, metrics(1))
    unfinished = metrics(1)
    unfinished["skipped"].delete()  # whoever looks at it fails
    for step in range(2, 2 + LAG):
        skipped.add(step, unfinished)
    with pytest.raises(RuntimeError, match="deleted"):
        skipped.settle()


def test_the_file_of_a_step_names_its_images(tmp_path):
    skipped = make(tmp_path)
    skipped.add(7, metrics(1))
    skipped.add(8, metrics(0))
    skipped.settle()
    (path,) = (tmp_path / "nan_report").iterdir()
    assert path.name == "step_00000006.json"  # counted from 0, as the plan counts
    row = json.loads(path.read_text())
    assert np.isnan(row.pop("loss")) and row == {"step": 6, "image_ids": PLAN[6].image_ids.tolist(), "skipped": 1.0}


def test_without_a_skipped_step_nothing_is_written(tmp_path):
    assert count_steps(make(tmp_path), [0] * 5) == 5
    assert list(tmp_path.iterdir()) == []
