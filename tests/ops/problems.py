"""Assignment problems of many kinds, and the check of a solver against SciPy."""

import numpy as np

from detr_jax.ops.assignment import LARGEST_COST, solve_definition

KINDS = ["uniform", "ties", "equal", "duplicates", "same queries", "trained", "negative", "coarse"]


def check(solve, cost, counts) -> int:
    """Every problem gets a valid matching of SciPy's cost; rows past the count stay empty. Returns the turns."""
    columns, turns, _ = solve(cost, counts)
    columns, wanted = np.asarray(columns), solve_definition(np.asarray(cost, np.float64), counts)
    for problem, count in enumerate(counts):
        chosen = columns[problem, :count]
        assert len(set(chosen)) == count and np.all(chosen < cost.shape[2])
        assert np.all(columns[problem, count:] == cost.shape[2])
        block = np.asarray(cost[problem, :count], np.float64)
        best = block[np.arange(count), wanted[problem, :count]].sum()
        np.testing.assert_allclose(block[np.arange(count), chosen].sum(), best, atol=1e-4 * max(count, 1))
    return int(turns)


def make_problems(kind: str, rng: np.random.Generator, count: int = 125, rows: int = 32, columns: int = 100):
    """Costs [count rows columns] of one of the ``KINDS``, and how many rows of each are real."""
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


def check_nonfinite(solve) -> None:
    """Non-finite costs are counted, and the matching is valid and the best of the finite ones."""
    rng = np.random.default_rng(0)
    cost = rng.random((20, 20, 20), np.float32)
    bad = rng.random(cost.shape) < rng.random((20, 1, 1))
    cost[bad] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
    columns, turns, nonfinite = solve(cost, np.full(20, 10, np.int32))
    assert int(nonfinite) == bad[:, :10].sum() and int(turns) < 20 * 20
    clean = np.where(np.isfinite(cost), cost, LARGEST_COST).astype(np.float64)
    wanted = solve_definition(clean, np.full(20, 10))
    for problem in range(20):
        chosen = np.asarray(columns)[problem, :10]
        assert len(set(chosen)) == 10
        best = clean[problem, np.arange(10), wanted[problem, :10]].sum()
        np.testing.assert_allclose(clean[problem, np.arange(10), chosen].sum(), best, rtol=1e-6)
