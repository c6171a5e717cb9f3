"""The solvers of the assignment problem against SciPy, which solves the same problems one by one on the host."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from scipy.optimize import linear_sum_assignment

from detr_jax.ops import assignment, assignment_kernel

loop = jax.jit(assignment.solve)
kernel = jax.jit(partial(assignment_kernel.solve, interpret=True))  # takes seconds to compile: one shape for all tests


def check(cost, counts, solve=loop):
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
def test_loop_equals_scipy(kind):  # 8 kinds of 125 problems
    check(*problems(kind, np.random.default_rng(KINDS.index(kind))))


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_equals_scipy(kind):  # 8 kinds of 20 problems, some without rows and some with as many as columns
    cost, counts = problems(kind, np.random.default_rng(KINDS.index(kind)), 20, 20, 20)
    counts[:3] = 0, 20, 20
    check(cost, counts, kernel)


def test_no_targets_and_as_many_as_queries():
    rng = np.random.default_rng(0)
    check(rng.random((6, 100, 100), np.float32), np.array([0, 100, 1, 99, 100, 50], np.int32))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 16, 17])
def test_any_number_of_problems(count):  # the loop goes on with ever fewer of them
    rng = np.random.default_rng(count)
    check(rng.random((count, 12, 16), np.float32), rng.integers(0, 13, count, np.int32))


def test_no_target_costs_no_turn():
    assert check(np.ones((4, 8, 20), np.float32), np.zeros(4, np.int32)) == 0
    assert check(np.ones((20, 20, 20), np.float32), np.zeros(20, np.int32), kernel) == 0


def test_padding_is_not_iterated_over():
    cost, counts = problems("trained", np.random.default_rng(1))
    assert check(cost, counts) <= 2


@pytest.mark.parametrize("kind", ["equal", "ties"])
def test_ties_do_not_walk_through_the_rows_before(kind):
    cost, counts = problems(kind, np.random.default_rng(1))
    assert check(cost, counts) <= 2 * counts.max()
    cost, counts = problems(kind, np.random.default_rng(1), 20, 20, 20)
    assert check(cost, counts, kernel) <= 2 * counts.max()


@pytest.mark.parametrize("solve", [loop, kernel])
def test_nonfinite_costs_end_counted_with_a_valid_matching(solve):
    rng = np.random.default_rng(0)
    cost = rng.random((20, 20, 20), np.float32)
    bad = rng.random(cost.shape) < rng.random((20, 1, 1))
    cost[bad] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
    columns, turns, nonfinite = solve(cost, np.full(20, 10, np.int32))
    assert int(nonfinite) == bad[:, :10].sum() and int(turns) < 20 * 20
    clean = np.where(np.isfinite(cost), cost, assignment.LARGEST_COST).astype(np.float64)
    for problem in range(20):
        chosen = np.asarray(columns)[problem, :10]
        assert len(set(chosen)) == 10
        best = clean[problem, :10][linear_sum_assignment(clean[problem, :10])].sum()
        np.testing.assert_allclose(clean[problem, np.arange(10), chosen].sum(), best, rtol=1e-6)


@pytest.mark.parametrize("rows, columns", [(64, 100), (100, 300), (128, 512)])
def test_kernel_lowers_for_a_gpu(rows, columns):
    cost, counts = jax.ShapeDtypeStruct((96, rows, columns), np.float32), jax.ShapeDtypeStruct((96,), np.int32)
    gpu = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=gpu)):
        lowered = jax.jit(assignment_kernel.solve).trace(cost, counts).lower(lowering_platforms=("cuda",))
    assert "xla.gpu.triton" in lowered.as_text()
