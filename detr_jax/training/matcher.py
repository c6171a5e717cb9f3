"""Bipartite matching of targets to queries (equation 1 of the paper): exact, on the device, all layers in one call.

Targets are the rows of the assignment problem and queries its columns. SciPy is the oracle of the tests.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Float, Int

from detr_jax import boxes
from detr_jax.config import LossConfig
from detr_jax.ops import assignment, assignment_kernel
from detr_jax.structures import Array, Predictions, Targets
from detr_jax.training.class_loss import ClassLoss, Softmax

# Both give a matching of the same cost. The kernel is for GPUs and stays a choice until it has been timed on one.
SOLVERS = {"loop": assignment.solve, "pallas": assignment_kernel.solve}
PUBLISHED = LossConfig()  # section A.4 of the paper
SOFTMAX = Softmax()


class Matches(NamedTuple):
    """The query of every target, and how the search went."""

    query_of_target: Int[Array, "L B T"]  # N where the target is not valid
    turns: Int[Array, " shards"]  # of the solver, per shard of the batch
    nonfinite: Int[Array, " shards"]  # costs of valid targets that were not finite


def matching_cost(
    predictions: Predictions, targets: Targets, weights: LossConfig = PUBLISHED, class_loss: ClassLoss = SOFTMAX
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
    return weights.bbox_cost * distance + weights.class_cost * of_class - weights.giou_cost * overlap


def match(
    predictions: Predictions,
    targets: Targets,
    weights: LossConfig = PUBLISHED,
    class_loss: ClassLoss = SOFTMAX,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh | None = None,
    solver: assignment.Solver = assignment.solve,
) -> Matches:
    """Matches all layers and images in one call; no gradient flows through it.

    With a ``mesh`` each device solves its own part of the batch: left to the partitioner, the loop's condition would
    become a collective in every turn.
    """

    def match_shard(logits, predicted_boxes, targets):
        cost = matching_cost(Predictions(logits, predicted_boxes), targets, weights, class_loss)
        layers, images, slots, queries = cost.shape
        counts = jnp.broadcast_to(jnp.sum(targets.valid, -1, dtype=jnp.int32)[None], (layers, images))
        query, turns, nonfinite = solver(cost.reshape(-1, slots, queries), counts.reshape(-1))
        return Matches(query.reshape(layers, images, slots), turns[None], nonfinite[None])

    if mesh is not None:
        batch = PartitionSpec(mesh.axis_names)
        layers_batch = PartitionSpec(None, mesh.axis_names)
        match_shard = jax.shard_map(
            match_shard,
            mesh=mesh,
            in_specs=(layers_batch, layers_batch, batch),
            out_specs=Matches(layers_batch, batch, batch),
        )
    inputs = jax.tree.map(lax.stop_gradient, (predictions.logits, predictions.boxes, targets))
    return jax.tree.map(lax.stop_gradient, match_shard(*inputs))
