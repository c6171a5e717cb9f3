"""The kernel that solves assignment problems, interpreted, against SciPy; and that it lowers for a GPU."""

from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

from detr_jax.ops import assignment_kernel
from tests.ops.problems import KINDS, check, check_nonfinite, make_problems

solve = jax.jit(partial(assignment_kernel.solve, interpret=True))  # takes seconds to compile: one shape for all tests


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_problem(kind):  # 8 kinds of 20 problems, some without rows and some with as many as columns
    cost, counts = make_problems(kind, np.random.default_rng(KINDS.index(kind)), 20, 20, 20)
    counts[:3] = 0, 20, 20
    check(solve, cost, counts)


def test_no_target_costs_no_turn():
    assert check(solve, np.ones((20, 20, 20), np.float32), np.zeros(20, np.int32)) == 0


@pytest.mark.parametrize("kind", ["equal", "ties"])
def test_ties_do_not_walk_through_the_rows_before(kind):
    cost, counts = make_problems(kind, np.random.default_rng(1), 20, 20, 20)
    assert check(solve, cost, counts) <= 2 * counts.max()


def test_nonfinite_costs_end_counted_with_a_valid_matching():
    check_nonfinite(solve)


@pytest.mark.parametrize("rows, columns", [(64, 100), (100, 300), (128, 512)])
def test_it_lowers_for_a_gpu(rows, columns):
    cost, counts = jax.ShapeDtypeStruct((96, rows, columns), np.float32), jax.ShapeDtypeStruct((96,), np.int32)
    gpu = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=gpu)):
        lowered = jax.jit(assignment_kernel.solve).trace(cost, counts).lower(lowering_platforms=("cuda",))
    assert "xla.gpu.triton" in lowered.as_text()
