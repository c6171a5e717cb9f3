"""The assignment problem as a kernel for GPUs: one program solves one problem from its first row to its last.

The method of ``assignment`` without its waiting: no program knows of the others, and a turn is a few instructions of
one warp instead of a few dozen launches. Written in Pallas, lowered through Triton. The row of costs that a turn scans
is read from memory, all else stays in registers.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas
from jax.experimental.pallas import triton
from jaxtyping import Float, Int

from detr_jax.structures import Array
from detr_jax.ops.assignment import cleaned, columns_of_rows


class _Tree(NamedTuple):
    """The alternating tree grown from the row that is being inserted; names are those of ``assignment``."""

    scanning: Int[Array, ""]
    reach: Float[Array, ""]
    shortest: Float[Array, " N"]
    parent: Int[Array, " N"]
    scanned: Int[Array, " N"]  # 1: column of the tree; Triton's loops carry no booleans
    nearest: Float[Array, ""]  # length of the path to the chosen column
    chosen: Int[Array, ""]  # column that was scanned last
    owner: Int[Array, ""]  # its row; -1: it is free, the tree is done
    turns: Int[Array, ""]


def _insert(cost, column, limit, state):
    """Inserts the next row of one problem: grows its tree up to a free column and augments along the path.

    ``cost`` is a reference [1 T N] into memory, ``state`` is (row, price of each column, row of each column, turns).
    """
    row, prices, row_of_column, turns = state
    columns = column.shape[0]

    def at(values, index):  # there is no indexing of registers
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
        """Gives a column to the row before it on the path, and goes to the column which that row had."""
        chosen, row_of_column = carry
        before = at(tree.parent, chosen)
        had = jnp.min(jnp.where(row_of_column == before, column, columns))  # the inserted row had none
        row_of_column = jnp.where(column == chosen, before, row_of_column)
        return jnp.where(before == row, -1, had), row_of_column

    free = jnp.where(tree.owner < 0, tree.chosen, -1)  # not when the turns ran out
    _, row_of_column = lax.while_loop(lambda carry: carry[0] >= 0, augment, (free, row_of_column))
    return row + 1, prices, row_of_column, tree.turns


def _program(counts, cost, row_of_column, turns, *, limit):
    """One problem: references [1], [1 T N] in, [1 N], [1] out."""
    columns = cost.shape[-1]
    column = lax.broadcasted_iota(jnp.int32, (columns,), 0)
    nothing = jnp.zeros((columns,), jnp.float32), jnp.full((columns,), -1, jnp.int32)
    count = counts[0]
    _, _, rows, made = lax.while_loop(
        lambda state: (state[0] < count) & (state[3] < limit),
        partial(_insert, cost, column, limit),
        (jnp.int32(0), *nothing, jnp.int32(0)),
    )
    row_of_column[0, :] = rows
    turns[0] = made


def solve(
    cost: Float[Array, "P T N"], counts: Int[Array, " P"], interpret: bool = False
) -> tuple[Int[Array, "P T"], Int[Array, ""], Int[Array, ""]]:
    """As ``assignment.solve``; among matchings of equal cost it may choose another. Turns are those of the longest
    problem.

    Needs a GPU, unless it is interpreted.
    """
    count, rows, columns = cost.shape
    cost, _, nonfinite = cleaned(cost, counts)
    padded = 1 << (columns - 1).bit_length()  # the only lengths that Triton has
    cost = jnp.pad(cost, ((0, 0), (0, 0), (0, padded - columns)), constant_values=jnp.inf)

    def results(cost):  # shapes taken from the input, so that under shard_map they vary with the shard as it does
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
    return columns_of_rows(row_of_column[:, :columns], rows), jnp.max(turns), nonfinite
