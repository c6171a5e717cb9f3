"""The assignment problem, exact, on the device, for many problems at once.

The shortest augmenting path method (Jonker & Volgenant 1987, Crouse 2016) in one flat loop: in each turn every problem
scans one row, and a problem that finishes a row starts its next one in the same turn. So no problem waits for another,
and padded rows cost nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from detr_jax.structures import Array

LARGEST_COST = 1e6  # replaces non-finite costs: the matching stays valid, and they are counted

# (cost [P T N], counts [P]) -> column of each row [P T], turns, non-finite costs; see ``solve``
Solver = Callable[[Array, Array], tuple[Array, Array, Array]]


class _Search(NamedTuple):
    """State of the flat loop over P problems. The tree is the alternating tree grown from the current row."""

    prices: Float[Array, "P N"]  # dual variable of each column
    row_of_column: Int[Array, "P N"]  # -1: free
    current: Int[Array, " P"]  # row being inserted; T: the problem is solved
    scanning: Int[Array, " P"]  # row whose edges are scanned in this turn
    reach: Float[Array, " P"]  # length of the path to that row, minus its dual variable
    shortest: Float[Array, "P N"]  # length of the shortest path to each column
    parent: Int[Array, "P N"]  # the row before each column on that path
    scanned: Bool[Array, "P N"]  # columns of the tree
    path_of_row: Bool[Array, "P T N"]  # columns on the path from the current row to each row of the tree


def clean_costs(
    cost: Float[Array, "P T N"], counts: Int[Array, " P"]
) -> tuple[Float[Array, "P T N"], Bool[Array, "P T"], Int[Array, ""]]:
    """(finite float32 costs, whether each row is among the first ``counts``, number of non-finite costs in those)."""
    valid = jnp.arange(cost.shape[1])[None] < counts[:, None]
    finite = jnp.isfinite(cost)
    bad = jnp.sum(jnp.where(finite, 0.0, 1.0), axis=-1)
    nonfinite = jnp.sum(jnp.where(valid, bad, 0.0)).astype(jnp.int32)
    cost = jnp.where(finite, jnp.clip(cost, -LARGEST_COST, LARGEST_COST), LARGEST_COST).astype(jnp.float32)
    return cost, valid, nonfinite


def invert(row_of_column: Int[Array, "P N"], rows: int) -> Int[Array, "P rows"]:
    """The column of each row; N for a row without one. Free columns have row -1."""
    count, columns = row_of_column.shape
    owner = jnp.where(row_of_column < 0, rows, row_of_column)
    column = jnp.broadcast_to(jnp.arange(columns, dtype=jnp.int32)[None], owner.shape)
    none = jnp.full((count, rows), columns, jnp.int32)
    return none.at[jnp.arange(count)[:, None], owner].set(column, mode="drop")


def _greedy_start(cost, valid):
    """Gives each row its cheapest column, unless an earlier row wants the same one.

    Returns the row of each column (-1: free) [P N], and which rows are still without a column [P T].
    """
    count, rows, columns = cost.shape
    row = jnp.arange(rows, dtype=jnp.float32)[None, :, None]
    column = jnp.arange(columns, dtype=jnp.int32)[None]
    problem = jnp.arange(count)[:, None]
    # In floats: on a CPU XLA's minimum of integers is up to six times slower, and its argmin twenty times.
    cheapest = jnp.where(valid, jnp.min(cost, axis=-1), -jnp.inf)[..., None]
    first = jnp.min(jnp.where(cost == cheapest, row, jnp.float32(rows)), axis=1)
    first = first.astype(jnp.int32)  # [P N]: the first row that wants the column; T: none
    # A row that comes first at several equally cheap columns keeps the last of them.
    kept = jnp.full_like(valid, -1, dtype=jnp.int32)
    kept = kept.at[problem, first].max(jnp.broadcast_to(column, first.shape), mode="drop")
    keeps = (first < rows) & (kept[problem, jnp.minimum(first, rows - 1)] == column)
    return jnp.where(keeps, first, -1), valid & (kept < 0)


def _turn(cost, following, state: _Search) -> _Search:
    """Scans one row of every unsolved problem. A problem that reaches a free column augments and starts its next row.

    ``following`` [P T] is the row to insert after each row; T after the last.
    """
    count, rows, columns = cost.shape
    problem = jnp.arange(count)
    column = jnp.arange(columns, dtype=jnp.int32)[None]

    through = state.reach[:, None] + cost[problem, state.scanning] - state.prices
    better = (through < state.shortest) & ~state.scanned
    parent = jnp.where(better, state.scanning[:, None], state.parent)
    shortest = jnp.where(better, through, state.shortest)

    # The nearest column outside the tree. Among equals a free one wins: otherwise ties (padding, initial weights) make
    # each row walk through all rows before it.
    outside = jnp.where(state.scanned, jnp.inf, shortest)
    nearest = jnp.min(outside, axis=-1)
    rank = column + jnp.where(state.row_of_column < 0, 0, columns)
    rank = jnp.where(outside == nearest[:, None], rank, 2 * columns - 1).astype(jnp.float32)
    rank = jnp.min(rank, axis=-1).astype(jnp.int32)
    reached_free = rank < columns
    chosen = jnp.where(reached_free, rank, rank - columns)
    is_chosen = column == chosen[:, None]
    scanned = state.scanned | is_chosen
    path = state.path_of_row[problem, parent[problem, chosen]] | is_chosen

    done = reached_free & (state.current < rows)
    done_column = done[:, None]
    current = jnp.where(done, following[problem, jnp.minimum(state.current, rows - 1)], state.current)
    # Scan the owner of the chosen column next, or the new row. The owner's edge to its column is tight, so its dual
    # variable is cost - price.
    scanning = jnp.where(reached_free, jnp.minimum(current, rows - 1), state.row_of_column[problem, chosen])
    dual = cost[problem, scanning, chosen] - state.prices[problem, chosen]
    return _Search(
        prices=jnp.where(done_column & scanned, state.prices - (nearest[:, None] - shortest), state.prices),
        row_of_column=jnp.where(done_column & path, parent, state.row_of_column),
        current=current,
        scanning=scanning,
        reach=jnp.where(done, 0.0, nearest - dual),
        shortest=jnp.where(done_column, jnp.inf, shortest),
        parent=parent,
        scanned=scanned & ~done_column,
        path_of_row=state.path_of_row.at[problem, scanning].set(path & ~done_column),
    )


def _turn_until(few: int, cost, following, state: _Search, turns):
    """Takes turns until at most ``few`` problems are unsolved; returns (state, turns)."""
    rows, columns = cost.shape[1:]
    return lax.while_loop(
        lambda carry: (jnp.sum(carry[0].current < rows) > few) & (carry[1] < rows * columns),
        lambda carry: (_turn(cost, following, carry[0]), carry[1] + 1),
        (state, turns),
    )


def _search(cost, following, state: _Search):
    """Takes turns until every problem is solved; returns (row of each column, turns).

    The last eighth of the problems continues alone, in cheaper turns: one crowded image does not slow down the others.
    """
    few = max(cost.shape[0] // 8, 1)
    turns = jnp.sum(state.current) * 0  # computed from the input, so that under shard_map it varies with the shard
    state, turns = _turn_until(few, cost, following, state, turns)
    last = jnp.argsort(state.current)[:few]  # solved problems are at the end
    rest, turns = _turn_until(0, *jax.tree.map(lambda x: x[last], (cost, following, state)), turns)
    return state.row_of_column.at[last].set(rest.row_of_column), turns


def solve(
    cost: Float[Array, "P T N"], counts: Int[Array, " P"]
) -> tuple[Int[Array, "P T"], Int[Array, ""], Int[Array, ""]]:
    """Assigns the first ``counts`` rows of each problem to different columns at the least total cost.

    Needs counts <= N. Returns the column of each row (N for rows past the count), the number of turns, and the number
    of non-finite costs. The loop ends after at most T * N turns, so that no input can hang a pod.
    """
    rows = cost.shape[1]
    cost, valid, nonfinite = clean_costs(cost, counts)
    row_of_column, pending = _greedy_start(cost, valid)
    row = jnp.arange(rows, dtype=jnp.int32)[None]
    order = lax.cummin(jnp.where(pending, row, rows), axis=1, reverse=True)  # the first pending row from each row on
    current = order[:, 0]
    # Initial values are computed from the inputs, so that under shard_map they vary with the shard as the loop's do.
    zeros = jnp.zeros_like(cost[:, 0])
    start = _Search(
        prices=zeros,
        row_of_column=row_of_column,
        current=current,
        scanning=jnp.minimum(current, rows - 1),
        reach=zeros[:, 0],
        shortest=zeros + jnp.inf,
        parent=jnp.zeros_like(row_of_column),
        scanned=zeros > 0,
        path_of_row=jnp.zeros_like(cost, dtype=bool),
    )
    following = jnp.pad(order[:, 1:], ((0, 0), (0, 1)), constant_values=rows)
    row_of_column, turns = _search(cost, following, start)
    return invert(row_of_column, rows), turns, nonfinite


def solve_definition(cost: Float[np.ndarray, "P T N"], counts: Int[np.ndarray, " P"]) -> Int[np.ndarray, "P T"]:
    """The columns that ``solve`` finds, or others of the same total cost: SciPy's, one problem after the other."""
    column = np.full(cost.shape[:2], cost.shape[2])
    for problem, count in enumerate(counts):
        column[problem, :count] = linear_sum_assignment(cost[problem, :count])[1]
    return column
