"""The loop that solves assignment problems, against SciPy, which solves them one by one on the host."""

import jax
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from detr_jax.ops import assignment
from tests.ops.problems import KINDS, check, check_nonfinite, make_problems

solve = jax.jit(assignment.solve)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_problem(kind):  # 8 kinds of 125 problems
    check(solve, *make_problems(kind, np.random.default_rng(KINDS.index(kind))))


def test_the_definition_is_scipys():
    cost, counts = make_problems("uniform", np.random.default_rng(0), 5, 6, 9)
    for block, count, found in zip(cost, counts, assignment.solve_definition(cost, counts), strict=True):
        np.testing.assert_array_equal(found[:count], linear_sum_assignment(block[:count])[1])
        assert (found[count:] == 9).all()


def test_no_targets_and_as_many_as_queries():
    rng = np.random.default_rng(0)
    check(solve, rng.random((6, 100, 100), np.float32), np.array([0, 100, 1, 99, 100, 50], np.int32))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 16, 17])
def test_any_number_of_problems(count):  # the loop continues with ever fewer of them
    rng = np.random.default_rng(count)
    check(solve, rng.random((count, 12, 16), np.float32), rng.integers(0, 13, count, np.int32))


def test_no_target_costs_no_turn():
    assert check(solve, np.ones((4, 8, 20), np.float32), np.zeros(4, np.int32)) == 0


def test_padding_is_not_iterated_over():
    assert check(solve, *make_problems("trained", np.random.default_rng(1))) <= 2


@pytest.mark.parametrize("kind", ["equal", "ties"])
def test_ties_do_not_walk_through_the_rows_before(kind):
    cost, counts = make_problems(kind, np.random.default_rng(1))
    assert check(solve, cost, counts) <= 2 * counts.max()


def test_nonfinite_costs_end_counted_with_a_valid_matching():
    check_nonfinite(solve)
