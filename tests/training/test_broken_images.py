"""Images that cannot be decoded: their rows count nothing, they are named once, too many of them end the run."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from detr_jax.batches.inputs import PixelReader
from detr_jax.batches.pipeline import load_batch
from detr_jax.batches.plan import TrainPlan
from detr_jax.config import DataConfig
from detr_jax.errors import BrokenImage, UserError
from detr_jax.structures import Batch, Bucket, Pixels
from detr_jax.training.broken_images import BrokenImages
from detr_jax.training.state import fresh_state
from detr_jax.training.step import compute_gradients, name_figures
from tests.batches.stored import Stored, make_images
from tests.training.small import FAST, jit, make_batch, make_small_recipe

DATA = DataConfig(scales=(32,), max_size=96, crop=0.0, buckets=(Bucket(96, 96, 8),), max_bad_images=0.4)


def without(batch: Batch, row: int) -> Batch:
    """The batch as ``load_batch`` leaves it when the image of a row is broken."""
    batch = jax.tree.map(np.array, batch)
    for array in (*jax.tree.leaves(batch.inputs), *batch.targets):
        array[row] = 0
    batch.image_ids[row] = -1
    return batch


def take(batch: Batch, rows: list[int]) -> Batch:
    return jax.tree.map(lambda x: np.asarray(x)[np.array(rows)], batch)


@pytest.mark.parametrize("changes", [{}, FAST], ids=["plain", "fast"])
def test_an_empty_row_counts_nothing(changes):
    """Gradients and figures of four rows, one of them empty, are those of the three others alone."""
    recipe = make_small_recipe({**changes, "model.denoising": 0} if changes else {})
    state = jit(lambda: fresh_state(recipe, {}))()
    compute = jit(lambda state, batch: compute_gradients(state, batch, recipe))
    batch = make_batch((1, 2, 4, 2))
    (of_three, three), (of_four, four) = (compute(state, one) for one in (take(batch, [0, 1, 3]), without(batch, 2)))
    three, four = name_figures(three), name_figures(four)
    for name, value in three.items():
        if name != "matcher_turns":
            np.testing.assert_allclose(four[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for name, gradient in of_three.items():
        scale = max(float(np.abs(gradient).max()), 1e-3)
        np.testing.assert_allclose(of_four[name], gradient, rtol=0, atol=2e-5 * scale, err_msg=name)


@pytest.fixture
def images():
    """A split of eight images, two of which cannot be decoded."""
    good = make_images()
    files = good.files[:2] + [good.files[2][:200]] + good.files[3:5] + [b"no image"] + good.files[6:8]
    return Stored("train", good.image_ids[:8], good.sizes[:8], good.target_counts[:8], files)


def make_plan(images) -> TrainPlan:
    return TrainPlan(images, DATA, 4, seed=0)


def test_a_broken_image_leaves_an_empty_row(images):
    plan, reader = make_plan(images), PixelReader()
    for step in range(2):
        planned = plan[step]
        batch = load_batch(images, planned, reader)
        broken = np.isin(planned.rows, [2, 5])
        np.testing.assert_array_equal(batch.image_ids == -1, broken)
        np.testing.assert_array_equal(batch.inputs.sizes[:, 0] == 0, broken)
        assert not batch.inputs.pixels[broken].any() and not batch.targets.valid[broken].any()
        assert isinstance(batch.inputs, Pixels) and batch.inputs.pixels[~broken].any()
    with pytest.raises(BrokenImage, match="cannot be used"):
        for step in range(2):
            load_batch(images, plan[step], reader, strict=True)


def test_broken_images_are_named_once(images, tmp_path):
    said = []
    broken = BrokenImages(tmp_path, images, make_plan(images), 0)
    broken.add([1, 2, 3], DATA, said.append)
    broken.add([1, 4], DATA, said.append)
    rows = [json.loads(line) for line in (tmp_path / "bad_images.jsonl").read_text().splitlines()]
    assert {row["image_id"] for row in rows} == {int(images.image_ids[2]), int(images.image_ids[5])}
    assert len(said) == len(rows) == 2 and all(row["reason"] in line for row, line in zip(rows, said, strict=True))


def test_what_came_after_the_checkpoint_is_met_again(images, tmp_path):
    plan = make_plan(images)
    first_step_of = {}
    for step in (2, 1):
        first_step_of |= {int(row): step for row in plan[step - 1].rows}
    BrokenImages(tmp_path, images, plan, 0).add([1, 2], DATA, lambda _: None)
    before = (tmp_path / "bad_images.jsonl").read_text()
    resumed = BrokenImages(tmp_path, images, plan, 1)
    assert len((tmp_path / "bad_images.jsonl").read_text().splitlines()) == sum(first_step_of[i] == 1 for i in (2, 5))
    resumed.add([2], DATA, lambda _: None)
    assert (tmp_path / "bad_images.jsonl").read_text() == before


def test_too_many_end_the_run(images, tmp_path):
    strict = dataclasses.replace(DATA, max_bad_images=0.2)
    with pytest.raises(UserError, match=r"2 of 8 images cannot be decoded .*bad_images.jsonl.*data.max_bad_images=0.2"):
        BrokenImages(tmp_path, images, make_plan(images), 0).add([1, 2], strict, lambda _: None)
    assert len((tmp_path / "bad_images.jsonl").read_text().splitlines()) == 2
