"""The set prediction loss (section 3.1 of the paper): named, unweighted terms, one value per decoder layer.

All sums are divided by counts that are known before the model runs (``Normalizers``), so a batch cut into micro-batches
gives the same gradient as the whole.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from detr_jax import boxes
from detr_jax.structures import Array, Predictions, Targets


class LossWeights(NamedTuple):
    """Weight of each term in the total."""

    loss_ce: float = 1.0
    loss_bbox: float = 5.0
    loss_giou: float = 2.0


class Normalizers(NamedTuple):
    """What the sums over a batch are divided by."""

    objects: Float[Array, ""]  # targets in the global batch, at least 1
    class_weight: Float[Array, " G"]  # total weight of the class term, per group of images


def normalizers(targets: Targets, num_queries: int, no_object_weight: float, groups: int = 1) -> Normalizers:
    """The divisors for a global batch.

    Each target is matched to one query of its own, so the class term's total weight follows from the counts.
    ``groups=1`` divides by the batch's weight; ``groups`` = number of devices reproduces the original, where each
    process divides by its own weight and the results are averaged.
    """
    counts = jnp.sum(targets.valid, axis=-1).astype(jnp.float32)  # [B]
    weight = counts + no_object_weight * (num_queries - counts)
    return Normalizers(jnp.maximum(jnp.sum(counts), 1.0), jnp.sum(weight.reshape(groups, -1), axis=-1))


def matched_classes(
    targets: Targets, query_of_target: Int[Array, "L B T"], num_queries: int, no_object: int
) -> Int[Array, "L B N"]:
    """The class every query should predict: its target's, or no-object."""
    layers, images, _ = query_of_target.shape
    labels = jnp.broadcast_to(targets.labels.astype(jnp.int32)[None], query_of_target.shape)
    layer, image = jnp.arange(layers)[:, None, None], jnp.arange(images)[None, :, None]
    empty = jnp.full((layers, images, num_queries), no_object, jnp.int32)
    return empty.at[layer, image, query_of_target].set(labels, mode="drop")  # N, of invalid targets, is dropped


def losses(
    predictions: Predictions,
    targets: Targets,
    query_of_target: Int[Array, "L B T"],
    divisors: Normalizers,
    no_object_weight: float,
) -> dict[str, Float[Array, " L"]]:
    """``loss_ce``, ``loss_bbox`` and ``loss_giou`` of every decoder layer, in float32, unweighted."""
    layers, images, queries, classes = predictions.logits.shape
    no_object = classes - 1

    wanted = matched_classes(targets, query_of_target, queries, no_object)
    log_probabilities = jax.nn.log_softmax(predictions.logits.astype(jnp.float32))
    surprise = -jnp.take_along_axis(log_probabilities, wanted[..., None], axis=-1)[..., 0]  # [L B N]
    weight = jnp.where(wanted == no_object, no_object_weight, 1.0)
    groups = divisors.class_weight.shape[0]
    by_group = jnp.sum((weight * surprise).reshape(layers, groups, -1), axis=-1)
    loss_ce = jnp.mean(by_group / divisors.class_weight[None], axis=-1)

    query = jnp.minimum(query_of_target, queries - 1)[..., None]
    matched = jnp.take_along_axis(predictions.boxes.astype(jnp.float32), query, axis=2)  # [L B T 4]
    # Selected before the arithmetic as well as after it: the gradient of |x - NaN| is NaN, even times 0.
    target_boxes = jnp.where(targets.valid[..., None], targets.boxes, 0.0)[None]
    distance = jnp.sum(jnp.abs(matched - target_boxes), axis=-1)
    overlap = boxes.giou(boxes.to_xyxy(matched), boxes.to_xyxy(target_boxes))

    def per_object(values):  # where, not times: what stands in an invalid slot must not matter, even if it is NaN
        return jnp.sum(jnp.where(targets.valid[None], values, 0.0), axis=(1, 2)) / divisors.objects

    return {"loss_ce": loss_ce, "loss_bbox": per_object(distance), "loss_giou": per_object(1.0 - overlap)}


def total(terms: dict[str, Float[Array, " L"]], weights: LossWeights) -> Float[Array, ""]:
    """The number that is minimised: every layer's terms, weighted."""
    return sum(weight * jnp.sum(terms[name]) for name, weight in weights._asdict().items())


class Errors(NamedTuple):
    """Sums from which the original's two error figures follow; unlike the figures they add up over micro-batches."""

    correct: Float[Array, ""]  # targets whose query in the last layer ranks their class first
    objects: Float[Array, ""]
    miscounted: Float[Array, " L"]  # |queries that claim an object - objects|, summed over images
    images: Float[Array, ""]

    def figures(self) -> dict[str, Array]:
        """``class_error`` in percent (100 for a batch without objects, as in the original), ``cardinality_error``."""
        return {
            "class_error": 100.0 * (1.0 - self.correct / jnp.maximum(self.objects, 1.0)),
            "cardinality_error": self.miscounted / self.images,
        }


def errors(predictions: Predictions, targets: Targets, query_of_target: Int[Array, "L B T"]) -> Errors:
    """Counts for the log; no gradient is meant to flow through them."""
    queries, classes = predictions.logits.shape[2:]
    ranked_first = jnp.argmax(predictions.logits, axis=-1)  # [L B N]
    query = jnp.minimum(query_of_target[-1], queries - 1)
    correct = (jnp.take_along_axis(ranked_first[-1], query, axis=-1) == targets.labels) & targets.valid
    claimed = jnp.sum(ranked_first != classes - 1, axis=-1)  # [L B]
    objects = jnp.sum(targets.valid, axis=-1)  # [B]
    return Errors(
        jnp.sum(correct).astype(jnp.float32),
        jnp.sum(objects).astype(jnp.float32),
        jnp.sum(jnp.abs(claimed - objects[None]), axis=-1).astype(jnp.float32),
        jnp.float32(predictions.logits.shape[1]),
    )
