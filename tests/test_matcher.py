"""The matcher against SciPy, which solves the same problems one by one on the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from detr_jax.structures import Predictions, Targets
from detr_jax.training import matcher

solve = jax.jit(matcher.solve)


def check(cost, counts):
    """Every problem: a valid matching of the least total cost; rows past the count stay empty."""
    columns, turns, _ = solve(cost, counts)
    columns = np.asarray(columns)
    for problem, count in enumerate(counts):
        chosen = columns[problem, :count]
        assert len(set(chosen)) == count and np.all(chosen < cost.shape[2])
        assert np.all(columns[problem, count:] == cost.shape[2])
        block = np.asarray(cost[problem, :count], np.float64)
        best = block[linear_sum_assignment(block)].sum()
        np.testing.assert_allclose(block[np.arange(count), chosen].sum(), best, atol=1e-4 * max(count, 1))
    return int(turns)


def problems(kind: str, rng: np.random.Generator, count: int = 125, rows: int = 32, columns: int = 100):
    counts = np.minimum(rng.geometric(0.12, count) - 1, rows).astype(np.int32)
    if kind == "uniform":
        cost = rng.random((count, rows, columns))
    elif kind == "ties":
        cost = rng.integers(0, 3, (count, rows, columns))
    elif kind == "equal":
        cost = np.full((count, rows, columns), 0.5)
    elif kind == "duplicates":  # several targets are the same object
        cost = np.repeat(rng.random((count, rows // 4, columns)), 4, axis=1)
    elif kind == "same queries":  # a fresh model: every query says nearly the same
        cost = rng.random((count, rows, 1)) + 1e-4 * rng.random((count, rows, columns))
    elif kind == "trained":  # one clear query per target
        cost = 5.0 + rng.random((count, rows, columns))
        for problem in range(count):
            cost[problem, np.arange(rows), rng.permutation(columns)[:rows]] = 0.0
    elif kind == "negative":
        cost = rng.normal(size=(count, rows, columns)) * 10
    else:  # "coarse": many near ties
        cost = np.round(rng.random((count, rows, columns)), 1)
    return cost.astype(np.float32), counts


KINDS = ["uniform", "ties", "equal", "duplicates", "same queries", "trained", "negative", "coarse"]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_scipy(kind):  # 8 kinds of 125 problems
    check(*problems(kind, np.random.default_rng(KINDS.index(kind))))


def test_no_targets_and_as_many_as_queries():
    rng = np.random.default_rng(0)
    check(rng.random((6, 100, 100), np.float32), np.array([0, 100, 1, 99, 100, 50], np.int32))


def test_no_target_costs_no_turn():
    assert check(np.ones((4, 8, 20), np.float32), np.zeros(4, np.int32)) == 0


def test_padding_is_not_iterated_over():
    cost, counts = problems("trained", np.random.default_rng(1))
    assert check(cost, counts) <= 2


def test_nonfinite_costs_end_counted_with_a_valid_matching():
    rng = np.random.default_rng(0)
    cost = rng.random((20, 12, 20), np.float32)
    bad = rng.random(cost.shape) < rng.random((20, 1, 1))
    cost[bad] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
    counts = np.full(20, 10, np.int32)
    columns, turns, nonfinite = solve(cost, counts)
    assert int(nonfinite) == bad[:, :10].sum() and int(turns) < 12 * 20
    clean = np.where(np.isfinite(cost), cost, matcher.LARGEST_COST).astype(np.float64)
    for problem in range(20):
        chosen = np.asarray(columns)[problem, :10]
        assert len(set(chosen)) == 10
        best = clean[problem, :10][linear_sum_assignment(clean[problem, :10])].sum()
        np.testing.assert_allclose(clean[problem, np.arange(10), chosen].sum(), best, rtol=1e-6)


def predictions_and_targets(layers=3, images=4, queries=12, slots=6, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    predictions = Predictions(
        jnp.asarray(rng.normal(size=(layers, images, queries, classes + 1)), jnp.float32),
        jnp.asarray(rng.uniform(0.1, 0.9, (layers, images, queries, 4)), jnp.float32),
    )
    counts = np.array([0, slots, 3, 1])[:images]
    valid = np.arange(slots)[None] < counts[:, None]
    targets = Targets(
        jnp.asarray(np.where(valid[..., None], rng.uniform(0.2, 0.6, (images, slots, 4)), 0), jnp.float32),
        jnp.asarray(np.where(valid, rng.integers(0, classes, (images, slots)), 0), jnp.int32),
        jnp.asarray(valid),
    )
    return predictions, targets


def test_cost_equals_the_formula_written_out():
    predictions, targets = predictions_and_targets()
    cost = np.asarray(matcher.matching_cost(predictions, targets))
    logits, boxes = np.asarray(predictions.logits, np.float64), np.asarray(predictions.boxes, np.float64)
    for layer, image, slot, query in [(0, 1, 5, 3), (2, 2, 0, 11), (1, 3, 0, 0)]:
        p = np.exp(logits[layer, image, query]) / np.exp(logits[layer, image, query]).sum()
        a, b = boxes[layer, image, query], np.asarray(targets.boxes[image, slot], np.float64)
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = [
            (c[0] - c[2] / 2, c[1] - c[3] / 2, c[0] + c[2] / 2, c[1] + c[3] / 2) for c in (a, b)
        ]
        inter = max(min(ax1, bx1) - max(ax0, bx0), 0) * max(min(ay1, by1) - max(ay0, by0), 0)
        union = a[2] * a[3] + b[2] * b[3] - inter
        hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
        giou = inter / union - (hull - union) / hull
        wanted = 5 * np.abs(a - b).sum() - p[int(targets.labels[image, slot])] - 2 * giou
        np.testing.assert_allclose(cost[layer, image, slot, query], wanted, atol=1e-5)


def test_sharded_equals_unsharded_without_collectives():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    predictions, targets = predictions_and_targets()
    whole = matcher.match(predictions, targets)
    sharded = jax.jit(lambda p, t: matcher.match(p, t, mesh=mesh))
    batch = jax.NamedSharding(mesh, jax.P("data"))
    layers_batch = jax.NamedSharding(mesh, jax.P(None, "data"))
    inputs = jax.device_put(predictions, layers_batch), jax.device_put(targets, batch)
    np.testing.assert_array_equal(sharded(*inputs).query_of_target, whole.query_of_target)
    compiled = sharded.lower(*inputs).compile().as_text()
    assert not any(word in compiled for word in ("all-reduce", "all-gather", "collective-permute"))


def test_no_gradient_flows_through():
    predictions, targets = predictions_and_targets()
    gradient = jax.grad(
        lambda boxes: jnp.sum(matcher.match(predictions._replace(boxes=boxes), targets).query_of_target * 1.0)
    )(predictions.boxes)
    assert not np.any(gradient)
