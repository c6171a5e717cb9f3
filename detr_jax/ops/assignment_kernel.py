"""The assignment problem as a GPU kernel: each program of the grid solves one problem.

The method of ``assignment.py``, but a turn is a few instructions of one warp instead of a few dozen launches, and no
problem waits for another. Written in Pallas, lowered through Triton. The row of costs that a turn scans is read from
memory; all else stays in registers.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas
from jax.experimental.pallas import triton
from jaxtyping import Float, Int

from detr_jax.ops.assignment import clean_costs, invert
from detr_jax.structures import Array


class _Tree(NamedTuple):
    """The alternating tree grown from the row that is being inserted; names as in ``assignment.py``."""

    scanning: Int[Array, ""]
    reach: Float[Array, ""]
    shortest: Float[Array, " N"]
    parent: Int[Array, " N"]
    scanned: Int[Array, " N"]  # 1: column of the tree; Triton's loops carry no booleans
    nearest: Float[Array, ""]  # length of the path to the chosen column
    chosen: Int[Array, ""]  # column scanned last
    owner: Int[Array, ""]  # its row; -1: it is free and the tree is complete
    turns: Int[Array, ""]


def _insert(cost, column, limit, state):
    """Inserts the next row of one problem: grows its tree to a free column and augments along the path.

    ``cost`` is a reference [1 T N] into memory; ``state`` is (row, price of each column, row of each column, turns).
    """
    row, prices, row_of_column, turns = state
    columns = column.shape[0]

    def at(values, index):  # registers cannot be indexed
        return jnp.sum(jnp.where(column == index, values, jnp.zeros_like(values)))

    def scan(tree: _Tree) -> _Tree:
        through = tree.reach + cost[0, tree.scanning, :] - prices
        better = (through < tree.shortest) & (tree.scanned == 0)
        parent = jnp.where(better, tree.scanning, tree.parent)
        shortest = jnp.where(better, through, tree.shortest)
        outside = jnp.where(tree.scanned == 0, shortest, jnp.inf)
        nearest = jnp.min(outside)
        rank = column + jnp.where(row_of_column < 0, 0, columns)
        rank = jnp.min(jnp.where(outside == nearest, rank, 2 * columns - 1))
        chosen = jnp.where(rank < columns, rank, rank - columns)
        owner = at(row_of_column, chosen)
        scanning = jnp.maximum(owner, 0)
        dual = cost[0, scanning, chosen] - at(prices, chosen)
        scanned = jnp.where(column == chosen, 1, tree.scanned)
        return _Tree(
            scanning, nearest - dual, shortest, parent, scanned, nearest, chosen, owner, tree.turns + 1
        )  # fmt: skip

    root = _Tree(
        scanning=row,
        reach=jnp.float32(0),
        shortest=jnp.full_like(prices, jnp.inf),
        parent=jnp.zeros_like(column),
        scanned=jnp.zeros_like(column),
        nearest=jnp.float32(0),
        chosen=jnp.int32(0),
        owner=jnp.int32(0),
        turns=turns,
    )
    tree = lax.while_loop(lambda tree: (tree.owner >= 0) & (tree.turns < limit), scan, root)
    prices = jnp.where(tree.scanned == 1, prices - (tree.nearest - tree.shortest), prices)

    def augment(carry):
        """Gives a column to the row before it on the path, and moves on to the column that row had."""
        chosen, row_of_column = carry
        before = at(tree.parent, chosen)
        had = jnp.min(jnp.where(row_of_column == before, column, columns))  # the inserted row had none
        row_of_column = jnp.where(column == chosen, before, row_of_column)
        return jnp.where(before == row, -1, had), row_of_column

    free = jnp.where(tree.owner < 0, tree.chosen, -1)  # -1 when the turns ran out
    _, row_of_column = lax.while_loop(lambda carry: carry[0] >= 0, augment, (free, row_of_column))
    return row + 1, prices, row_of_column, tree.turns


def _program(counts, cost, row_of_column, turns, *, limit):
    """Solves one problem: references [1] and [1 T N] in, [1 N] and [1] out."""
    columns = cost.shape[-1]
    column = lax.broadcasted_iota(jnp.int32, (columns,), 0)
    empty = jnp.zeros((columns,), jnp.float32), jnp.full((columns,), -1, jnp.int32)
    count = counts[0]
    _, _, rows, made = lax.while_loop(
        lambda state: (state[0] < count) & (state[3] < limit),
        partial(_insert, cost, column, limit),
        (jnp.int32(0), *empty, jnp.int32(0)),
    )
    row_of_column[0, :] = rows
    turns[0] = made


def solve(
    cost: Float[Array, "P T N"], counts: Int[Array, " P"], interpret: bool = False
) -> tuple[Int[Array, "P T"], Int[Array, ""], Int[Array, ""]]:
    """As ``assignment.solve``, but among matchings of equal cost it may choose another.

    The number of turns is that of the longest problem. Needs a GPU, unless ``interpret`` is set.
    """
    count, rows, columns = cost.shape
    cost, _, nonfinite = clean_costs(cost, counts)
    padded = 1 << (columns - 1).bit_length()  # Triton has only powers of 2
    cost = jnp.pad(cost, ((0, 0), (0, 0), (0, padded - columns)), constant_values=jnp.inf)

    def results(cost):  # shapes made from the input, so that under shard_map they vary with the shard
        return cost[:, 0].astype(jnp.int32), cost[:, 0, 0].astype(jnp.int32)

    one = pallas.BlockSpec((1,), lambda problem: (problem,))
    row_of_column, turns = pallas.pallas_call(
        partial(_program, limit=rows * columns),
        grid=(count,),
        in_specs=[one, pallas.BlockSpec((1, rows, padded), lambda problem: (problem, 0, 0))],
        out_specs=(pallas.BlockSpec((1, padded), lambda problem: (problem, 0)), one),
        out_shape=jax.eval_shape(results, cost),
        compiler_params=triton.CompilerParams(num_warps=1),
        interpret=interpret,
    )(counts.astype(jnp.int32), cost)
    return invert(row_of_column[:, :columns], rows), jnp.max(turns), nonfinite
