"""Bipartite matching of targets to queries (equation 1 of the paper): exact, on the device, all layers in one call.

The solver is the shortest augmenting path method (Jonker & Volgenant 1987, Crouse 2016) with targets as rows, run for
many problems at once in one flat loop: each turn every problem scans one row, and a problem that finishes a row starts
its next one in the same turn, so nobody waits and padded targets cost nothing. SciPy is the oracle of the tests.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float, Int

from detr_jax import boxes
from detr_jax.structures import Array, Predictions, Targets
from detr_jax.training.class_loss import ClassLoss, Softmax

LARGEST_COST = 1e6  # non-finite costs become this: the matching stays valid, and is counted


class CostWeights(NamedTuple):
    """What a unit of each distance costs (section A.4 of the paper)."""

    class_: float = 1.0
    bbox: float = 5.0
    giou: float = 2.0


PUBLISHED = CostWeights()
SOFTMAX = Softmax()


class Matches(NamedTuple):
    """The query of every target, and how the search went."""

    query_of_target: Int[Array, "L B T"]  # N where the target is not valid
    turns: Int[Array, " shards"]  # of the loop, per shard of the batch
    nonfinite: Int[Array, " shards"]  # costs of valid targets that were not finite


def matching_cost(
    predictions: Predictions, targets: Targets, weights: CostWeights = PUBLISHED, class_loss: ClassLoss = SOFTMAX
) -> Float[Array, "L B T N"]:
    """Cost of giving each target to each query: its class, L1 of the boxes and -GIoU, weighted; float32."""
    costs = class_loss.cost(predictions.logits.astype(jnp.float32))
    labels = jnp.broadcast_to(
        targets.labels[None, :, None, :], (*costs.shape[:3], targets.labels.shape[-1])
    )  # [L B N T]
    of_class = jnp.swapaxes(jnp.take_along_axis(costs, labels, axis=-1), -1, -2)  # [L B T N]
    predicted = predictions.boxes.astype(jnp.float32)[:, :, None]  # [L B 1 N 4]
    wanted = targets.boxes[None, :, :, None]  # [1 B T 1 4]
    distance = jnp.sum(jnp.abs(predicted - wanted), axis=-1)
    overlap = boxes.giou(boxes.to_xyxy(predicted), boxes.to_xyxy(wanted))
    return weights.bbox * distance + weights.class_ * of_class - weights.giou * overlap


class _Search(NamedTuple):
    """State of the flat loop for P problems. "Tree": the alternating tree grown from the current row."""

    prices: Float[Array, "P N"]  # dual variable of each column
    row_of_column: Int[Array, "P N"]  # -1: free
    pending: Bool[Array, "P T"]  # rows still to be inserted
    current: Int[Array, " P"]  # row being inserted; -1: this problem is solved
    scanning: Int[Array, " P"]  # row whose edges are looked at in this turn
    reach: Float[Array, " P"]  # length of the path to that row, less its dual variable
    shortest: Float[Array, "P N"]  # length of the shortest path to each column
    parent: Int[Array, "P N"]  # the row before each column on that path
    scanned: Bool[Array, "P N"]  # columns of the tree
    path_of_row: Bool[Array, "P T N"]  # columns on the path from the current row to each row of the tree
    turns: Int[Array, ""]


def _greedy_start(cost, valid):
    """Each row takes its cheapest column; the first row that wants a column gets it, the others stay pending."""
    count, rows, columns = cost.shape
    cheapest = jnp.argmin(cost, axis=-1).astype(jnp.int32)
    row = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32)[None], (count, rows))
    problem = jnp.arange(count)[:, None]
    nobody = jnp.full_like(cost[:, 0], rows, dtype=jnp.int32)
    winner = nobody.at[problem, jnp.where(valid, cheapest, columns)].min(row, mode="drop")
    pending = valid & (jnp.take_along_axis(winner, cheapest, axis=1) != row)
    return jnp.where(winner == rows, -1, winner), pending


def _first(pending):
    """The first pending row of each problem, or -1."""
    return jnp.where(jnp.any(pending, -1), jnp.argmax(pending, -1).astype(jnp.int32), -1)


def _turn(cost, state: _Search) -> _Search:
    """Scans one row of every unsolved problem; where that reaches a free column, augments and takes the next row."""
    count, rows, columns = cost.shape
    problem = jnp.arange(count)
    column = jnp.arange(columns, dtype=jnp.int32)[None]
    row = jnp.arange(rows, dtype=jnp.int32)[None]

    through = state.reach[:, None] + cost[problem, state.scanning] - state.prices
    better = (through < state.shortest) & ~state.scanned
    parent = jnp.where(better, state.scanning[:, None], state.parent)
    shortest = jnp.where(better, through, state.shortest)

    # The nearest column outside the tree. Among equals a free one wins: without that, ties (padding, initial weights)
    # make each row walk through all rows before it.
    outside = jnp.where(state.scanned, jnp.inf, shortest)
    nearest = jnp.min(outside, axis=-1)
    rank = jnp.where(outside == nearest[:, None], column + jnp.where(state.row_of_column < 0, 0, columns), 4 * columns)
    rank = jnp.min(rank, axis=-1)
    reached_free = rank < columns
    chosen = jnp.where(reached_free, rank, rank - columns)
    is_chosen = column == chosen[:, None]

    def at_chosen(values):
        return jnp.sum(jnp.where(is_chosen, values, 0), axis=-1)

    scanned = state.scanned | is_chosen
    path = state.path_of_row[problem, at_chosen(parent)] | is_chosen

    active = state.current >= 0
    done = active & reached_free
    done_column = done[:, None]
    prices = jnp.where(done_column & scanned, state.prices - (nearest[:, None] - shortest), state.prices)
    row_of_column = jnp.where(done_column & path, parent, state.row_of_column)
    pending = state.pending & ~(done_column & (row == state.current[:, None]))
    current = jnp.where(done, _first(pending), state.current)

    next_row = at_chosen(state.row_of_column)  # owner of the chosen column, when it has one
    grows = active & ~reached_free
    path_of_row = jnp.where(
        done[:, None, None],
        False,
        state.path_of_row.at[problem, jnp.where(grows, next_row, rows)].set(path, mode="drop"),
    )
    scanning = jnp.maximum(jnp.where(done, current, next_row), 0)
    # The owner's edge to its column is tight, so its dual variable is cost - price.
    reach = jnp.where(done, 0.0, nearest - (cost[problem, scanning, chosen] - at_chosen(state.prices)))
    return _Search(
        prices=prices,
        row_of_column=row_of_column,
        pending=pending,
        current=current,
        scanning=scanning,
        reach=reach,
        shortest=jnp.where(done_column, jnp.inf, shortest),
        parent=parent,
        scanned=scanned & ~done_column,
        path_of_row=path_of_row,
        turns=state.turns + 1,
    )


def solve(
    cost: Float[Array, "P T N"], counts: Int[Array, " P"]
) -> tuple[Int[Array, "P T"], Int[Array, ""], Int[Array, ""]]:
    """Assigns the first ``counts`` rows of each problem to different columns at the least total cost.

    Needs counts <= N. Returns the column of each row (N for rows past the count), the turns the loop took and the
    number of non-finite costs. The loop ends after T * N turns whatever the numbers are: no input can hang a pod.
    """
    count, rows, columns = cost.shape
    valid = jnp.arange(rows)[None] < counts[:, None]
    finite = jnp.isfinite(cost)
    nonfinite = jnp.sum(~finite & valid[..., None])
    cost = jnp.where(finite, jnp.clip(cost, -LARGEST_COST, LARGEST_COST), LARGEST_COST).astype(jnp.float32)

    row_of_column, pending = _greedy_start(cost, valid)
    current = _first(pending)
    # Starting values are derived from the inputs, so that under shard_map they vary with the shard as the loop's do.
    zeros = jnp.zeros_like(cost[:, 0])
    start = _Search(
        prices=zeros,
        row_of_column=row_of_column,
        pending=pending,
        current=current,
        scanning=jnp.maximum(current, 0),
        reach=zeros[:, 0],
        shortest=zeros + jnp.inf,
        parent=jnp.zeros_like(row_of_column),
        scanned=zeros > 0,
        path_of_row=jnp.zeros_like(cost, dtype=bool),
        turns=nonfinite * 0,
    )
    end = lax.while_loop(
        lambda state: jnp.any(state.current >= 0) & (state.turns < rows * columns), partial(_turn, cost), start
    )
    owned = end.row_of_column[:, None, :] == jnp.arange(rows, dtype=jnp.int32)[None, :, None]  # [P T N]
    column_of_row = jnp.where(jnp.any(owned, -1), jnp.argmax(owned, -1).astype(jnp.int32), columns)
    return column_of_row, end.turns, nonfinite


def match(
    predictions: Predictions,
    targets: Targets,
    weights: CostWeights = PUBLISHED,
    mesh: jax.sharding.Mesh | None = None,
    class_loss: ClassLoss = SOFTMAX,
) -> Matches:
    """Matches all layers and images in one call; no gradient flows through it.

    With a ``mesh`` the batch is solved shard by shard: left to the partitioner, the loop's condition would become
    a collective per turn.
    """

    def local(logits, predicted_boxes, targets):
        cost = matching_cost(Predictions(logits, predicted_boxes), targets, weights, class_loss)
        layers, images, slots, queries = cost.shape
        counts = jnp.broadcast_to(jnp.sum(targets.valid, -1, dtype=jnp.int32)[None], (layers, images))
        query, turns, nonfinite = solve(cost.reshape(-1, slots, queries), counts.reshape(-1))
        return Matches(query.reshape(layers, images, slots), turns[None], nonfinite[None])

    if mesh is not None:
        batch = PartitionSpec(mesh.axis_names)
        layers_batch = PartitionSpec(None, mesh.axis_names)
        local = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(layers_batch, layers_batch, batch),
            out_specs=Matches(layers_batch, batch, batch),
        )
    return jax.tree.map(lax.stop_gradient, local(*jax.tree.map(lax.stop_gradient, (*predictions, targets))))
