"""The loss on the validation split: that of one big batch, however the images are cut into batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.structures import Batch
from detr_jax.training import step
from detr_jax.training.state import init_state
from detr_jax.training.validation_loss import box_spread, name_losses, sum_losses
from tests.training.small import jit, make_batch, make_small_recipe

COUNTS = (1, 0, 4, 2, 3, 1)


def rows(batch: Batch, which: slice) -> Batch:
    return jax.tree.map(lambda array: array[which], batch)


@pytest.fixture(scope="module", params=["softmax", "sigmoid"])
def recipe(request):
    return make_small_recipe({"model.dropout": 0.0, "model.class_scores": request.param})


@pytest.fixture(scope="module")
def arrays(recipe):
    return jit(recipe.network.init)(jax.random.key(0))


def measure(recipe, arrays, *batches: Batch) -> dict[str, float]:
    def of_batch(arrays, batch):
        return sum_losses(recipe.network.apply(arrays, batch.inputs), batch, recipe)

    return name_losses([jit(of_batch)(arrays, batch) for batch in batches], recipe)


def test_it_is_the_loss_of_training_on_one_big_batch(recipe, arrays):
    batch = make_batch(COUNTS)
    found = measure(recipe, arrays, batch)
    _, sums = jit(lambda state, batch: step.compute_gradients(state, batch, recipe))(init_state(arrays, recipe), batch)
    wanted = step.name_figures(sums)
    for name in ("loss_ce", "loss_bbox", "loss_giou", "class_error"):
        assert found[f"test_{name}"] == pytest.approx(float(wanted[name]), rel=1e-5), name
    total = step.losses.total_loss(sums.terms.values(), recipe.config.loss)
    assert found["test_loss"] == pytest.approx(float(total), rel=1e-5)


def test_batches_and_empty_rows_change_nothing(recipe, arrays):
    batch = make_batch(COUNTS)
    wanted = measure(recipe, arrays, batch)
    empty = jax.tree.map(np.zeros_like, rows(batch, slice(0, 2)))._replace(image_ids=np.full(2, -1))
    last = jax.tree.map(lambda *parts: np.concatenate(parts), rows(batch, slice(4, 6)), empty)
    found = measure(recipe, arrays, rows(batch, slice(0, 4)), last)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_a_split_without_objects_has_a_finite_loss(recipe, arrays):
    assert all(np.isfinite(value) for value in measure(recipe, arrays, make_batch((0, 0))).values())
    assert name_losses([], recipe) == {}


def test_the_spread_of_boxes_that_are_all_alike_is_zero():
    alike = jnp.tile(jnp.array([0.4, 0.6, 0.2, 0.1]), (2, 100, 1))
    anywhere = jax.random.uniform(jax.random.key(0), (2, 5000, 4))
    np.testing.assert_allclose(box_spread(alike), 0.0, atol=1e-3)
    np.testing.assert_allclose(box_spread(anywhere), (1 / 6) ** 0.5, rtol=0.05)
