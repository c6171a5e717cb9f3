"""The optimizer and the schedules against their formulas."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from detr_jax.config import OptimConfig
from detr_jax.training import optimizer
from tests.training.small import assert_equal, make_small_recipe

OPTIM = OptimConfig(lr=1e-3, lr_backbone=1e-4, weight_decay=0.1, b2=0.99, schedule="step", drop_epoch=1)


def make_optimizer() -> SimpleNamespace:
    """The optimizer of ``OPTIM`` in a run of 100 steps, 2 an epoch."""
    tx = optimizer.make_optimizer(OPTIM.b2, OPTIM.schedule)
    numbers = optimizer.make_hyperparameters(OPTIM, total_steps=100, steps_per_epoch=2)
    return SimpleNamespace(init=tx.init, update=functools.partial(tx.update, numbers=numbers))


def test_clip_is_torchs_rule():
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}
    clipped, norm = optimizer.clip_by_norm(gradients, 0.1)
    assert float(norm) == pytest.approx(5.0)
    np.testing.assert_allclose(clipped["a"], [3 * 0.1 / (5 + 1e-6), 0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [[4 * 0.1 / (5 + 1e-6)]], rtol=1e-6)
    for limit in (6.0, 0.0):  # below the limit, or no limit
        clipped, norm = optimizer.clip_by_norm(gradients, limit)
        assert_equal(clipped, gradients)
        assert float(norm) == pytest.approx(5.0)


def test_norm_of_gradients_of_every_rank():
    rng = np.random.default_rng(0)
    shapes = [(), (7,), (5, 3), (3, 3, 4, 2)]
    gradients = {str(shape): jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes}
    norm = optimizer.clip_by_norm(gradients, 0.1)[1]
    assert float(norm) == pytest.approx(float(optax.global_norm(gradients)), rel=1e-6)


def test_adamw_equals_the_formulas():
    rng = np.random.default_rng(0)
    params = {"backbone/a/kernel": rng.normal(size=(3, 2)), "class_head/bias": rng.normal(size=4)}
    wanted = {name: array.copy() for name, array in params.items()}
    params = {name: jnp.asarray(array, jnp.float32) for name, array in params.items()}
    tx = make_optimizer()
    opt_state = tx.init(params)
    first = {name: 0.0 for name in params}
    second = {name: 0.0 for name in params}
    for t in (1, 2, 3):
        gradients = {name: rng.normal(size=array.shape) for name, array in params.items()}
        for name, rate in (("backbone/a/kernel", OPTIM.lr_backbone), ("class_head/bias", OPTIM.lr)):
            rate *= 0.1 if t == 3 else 1.0  # the third step is step 2, where the rate drops
            first[name] = 0.9 * first[name] + 0.1 * gradients[name]
            second[name] = 0.99 * second[name] + 0.01 * gradients[name] ** 2
            wanted[name] -= rate * 0.1 * wanted[name]
            corrected = first[name] / (1 - 0.9**t), second[name] / (1 - 0.99**t)
            wanted[name] -= rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        updates, opt_state = tx.update(
            {n: jnp.asarray(g, jnp.float32) for n, g in gradients.items()}, opt_state, params
        )
        params = {name: array + updates[name] for name, array in params.items()}
    for name in params:
        np.testing.assert_allclose(params[name], wanted[name], atol=1e-6, err_msg=name)


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was():
    params = {"backbone/a/kernel": jnp.ones((3, 2)), "class_head/bias": jnp.ones(4)}
    tx = make_optimizer()
    _, state = tx.update(params, tx.init(params), params)
    poisoned = jax.tree.map(lambda array: array * jnp.nan, params)
    _, kept = tx.update(poisoned, state, params, finite=jnp.array(False))
    assert_equal(kept, state)
    _, counted = tx.update(params, state, params, finite=jnp.array(True))
    assert int(counted[0].count) == int(state[0].count) + 1 == int(counted[1].count)


def test_groups_are_named_by_where_an_array_stands():
    names = make_small_recipe().network.shapes
    groups = {name: optimizer.group_of(name) for name in names}
    assert all((group == "backbone") == name.startswith("backbone/") for name, group in groups.items())
    assert set(groups.values()) == {"backbone", "rest"}


def factors(schedule: optimizer.Schedule, *steps: int) -> list[float]:
    """The factors of a schedule at these steps."""
    return [float(schedule(step)) for step in steps]


def test_schedules_at_chosen_steps():
    def make(**settings) -> optimizer.Schedule:
        return optimizer.make_schedule(OptimConfig(**settings), total_steps=1000, steps_per_epoch=200)

    drops = make(schedule="step", drop_epoch=2)
    np.testing.assert_allclose(factors(drops, 0, 399, 400, 799, 800), [1, 1, 0.1, 0.1, 0.01], rtol=1e-5)
    assert optimizer.COSINE_FLOOR == 0.01
    cosine = make(schedule="cosine")
    np.testing.assert_allclose(factors(cosine, 0, 500, 1000, 2000), [1, 0.505, 0.01, 0.01], rtol=1e-5)
    constant = make(schedule="constant", warmup_steps=10)
    np.testing.assert_allclose(factors(constant, 0, 4, 9, 10, 900), [0.1, 0.5, 1, 1, 1], rtol=1e-5)
    both = make(schedule="step", drop_epoch=2, warmup_steps=10)
    np.testing.assert_allclose(factors(both, 0, 399, 400), [0.1, 1, 0.1], rtol=1e-5)


# Compiled, XLA turns a division by a constant into a product with its rounded reciprocal: 41 * (1 / 41) < 1.
@pytest.mark.parametrize("drop_step", [41, 47, 55, 61, 83, 1000])
def test_compiled_schedule_drops_at_every_multiple(drop_step):
    optim = OptimConfig(schedule="step", drop_epoch=drop_step)
    factor = jax.jit(optimizer.make_schedule(optim, total_steps=10_000, steps_per_epoch=1))
    for multiple in (1, 2, 3):
        before, at = factor(multiple * drop_step - 1), factor(multiple * drop_step)
        np.testing.assert_allclose([before, at], [0.1 ** (multiple - 1), 0.1**multiple], rtol=1e-4)
