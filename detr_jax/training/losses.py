"""The set prediction loss (section 3.1 of the paper): unweighted terms, one value per layer.

All sums are divided by counts that are known before the model runs (``Normalizers``), so a batch cut into micro-batches
gives the same gradient as the whole batch.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from detr_jax import boxes
from detr_jax.config import LossConfig
from detr_jax.structures import Array, Predictions, Targets
from detr_jax.training.class_loss import ClassLoss


class Terms(NamedTuple):
    """The terms of the loss after each of L layers; the names are those of the original's log."""

    loss_ce: Float[Array, " L"]  # class
    loss_bbox: Float[Array, " L"]  # L1 distance of the boxes
    loss_giou: Float[Array, " L"]  # 1 - generalised IoU


class Normalizers(NamedTuple):
    """What the sums over a batch are divided by."""

    objects: Float[Array, ""]  # targets in the global batch, at least 1
    class_weight: Float[Array, " G"]  # total weight of the class term, per group of images


def make_normalizers(
    targets: Targets,
    num_queries: int,
    class_loss: ClassLoss,
    groups: int = 1,
    present: Bool[Array, " B"] | None = None,
) -> Normalizers:
    """The divisors for a global batch, whose rows without an image are not ``present`` (None: all are).

    Each target is matched to one query of its own, so the class term's total weight follows from the counts.
    ``groups=1`` divides by the weight of the whole batch. ``groups`` = number of devices reproduces the original, where
    each process divides by its own weight and the results are averaged.
    """
    counts = jnp.sum(targets.valid, axis=-1).astype(jnp.float32)  # [B]
    weight = class_loss.weight(counts, num_queries)
    if present is not None:
        weight = jnp.where(present, weight, 0.0)
    by_group = jnp.sum(weight.reshape(groups, -1), axis=-1)
    # A group without any weight, such as one without objects under focal loss, is divided by 1.
    return Normalizers(jnp.maximum(jnp.sum(counts), 1.0), jnp.where(by_group > 0, by_group, 1.0))


def target_classes(
    targets: Targets, query_of_target: Int[Array, "L B T"], num_queries: int, no_object: int
) -> Int[Array, "L B N"]:
    """The class every query should predict: that of its target, or no-object."""

    def of_image(query: Int[Array, " T"], labels: Int[Array, " T"]) -> Int[Array, " N"]:
        return jnp.full(num_queries, no_object, jnp.int32).at[query].set(labels, mode="drop")

    # Invalid targets have query N, which is dropped. Mapped over the images rather than indexed by them, because then
    # the compiler knows that each image stays on its device.
    return jax.vmap(jax.vmap(of_image), (0, None))(query_of_target, targets.labels.astype(jnp.int32))


def set_losses(
    predictions: Predictions,
    targets: Targets,
    query_of_target: Int[Array, "L B T"],
    normalizers: Normalizers,
    class_loss: ClassLoss,
    query_valid: Bool[Array, "B N"] | None = None,
) -> Terms:
    """The terms of every layer, in float32, unweighted. Queries that are not valid have no part in the class term."""
    layers, _, queries, classes = predictions.logits.shape

    wanted = target_classes(targets, query_of_target, queries, class_loss.no_object(classes))
    of_query = class_loss.loss(predictions.logits.astype(jnp.float32), wanted)  # [L B N]
    if query_valid is not None:
        of_query = jnp.where(query_valid[None], of_query, 0.0)
    groups = normalizers.class_weight.shape[0]
    by_group = jnp.sum(of_query.reshape(layers, groups, -1), axis=-1)
    loss_ce = jnp.mean(by_group / normalizers.class_weight[None], axis=-1)

    query = jnp.minimum(query_of_target, queries - 1)[..., None]
    matched = jnp.take_along_axis(predictions.boxes.astype(jnp.float32), query, axis=2)  # [L B T 4]
    # Replace invalid slots before the arithmetic as well as after it: the gradient of |x - NaN| is NaN, even times 0.
    target_boxes = jnp.where(targets.valid[..., None], targets.boxes, 0.0)[None]
    distance = jnp.sum(jnp.abs(matched - target_boxes), axis=-1)
    overlap = boxes.giou(boxes.to_xyxy(matched), boxes.to_xyxy(target_boxes))

    def per_object(values):  # where, not a product: NaN in an invalid slot must not matter
        return jnp.sum(jnp.where(targets.valid[None], values, 0.0), axis=(1, 2)) / normalizers.objects

    return Terms(loss_ce, per_object(distance), per_object(1.0 - overlap))


def denoising_losses(
    denoised: Predictions, targets: Targets, objects: Float[Array, ""], class_loss: ClassLoss
) -> Terms:
    """The same terms for noised objects, whose targets need no matching; a mean over their groups.

    Args:
      denoised: of the groups one after another, [L B G*T ...].
      objects: targets in the global batch, at least 1.
    """
    layers, images, count, _ = denoised.logits.shape
    slots = targets.valid.shape[1]

    def groups_as_layers(x):  # [L B G*T c] -> [L*G B T c]
        x = x.reshape(layers, images, count // slots, slots, -1)
        return jnp.swapaxes(x, 1, 2).reshape(-1, images, slots, x.shape[-1])

    by_group = Predictions(groups_as_layers(denoised.logits), groups_as_layers(denoised.boxes))
    own = jnp.where(targets.valid, jnp.arange(slots, dtype=jnp.int32)[None], slots)
    own = jnp.broadcast_to(own[None], (by_group.logits.shape[0], *own.shape))
    terms = set_losses(by_group, targets, own, Normalizers(objects, objects[None]), class_loss, targets.valid)
    return jax.tree.map(lambda values: jnp.mean(values.reshape(layers, -1), axis=1), terms)


def keep_layers(decoded: Predictions, auxiliary: bool) -> Predictions:
    """Every decoder layer with ``auxiliary`` losses, else only the last."""
    return decoded if auxiliary else Predictions(decoded.logits[-1:], decoded.boxes[-1:])


def stack_layers(predictions: Predictions, auxiliary: bool) -> Predictions:
    """Everything that is matched, as layers: the encoder's proposals, if any, then the decoder layers."""
    decoded, proposals = keep_layers(predictions, auxiliary), predictions.proposals
    if proposals is None:
        return Predictions(decoded.logits, decoded.boxes)
    return Predictions(
        jnp.concatenate([proposals.logits, decoded.logits]), jnp.concatenate([proposals.boxes, decoded.boxes])
    )


def total_loss(terms: Iterable[Terms], weights: LossConfig) -> Float[Array, ""]:
    """The number that is minimised: all terms of all layers, weighted."""
    factors = (weights.class_weight, weights.bbox_weight, weights.giou_weight)
    return sum(factor * jnp.sum(values) for one in terms for factor, values in zip(factors, one, strict=True))


class Errors(NamedTuple):
    """Sums from which the original's two error figures follow; unlike the figures they add up over micro-batches."""

    correct: Float[Array, ""]  # targets whose query in the last layer ranks their class first
    objects: Float[Array, ""]
    miscounted: Float[Array, " L"]  # |queries that claim an object - objects|, summed over images
    images: Float[Array, ""]

    @property
    def class_error(self) -> Float[Array, ""]:
        """Wrongly classified targets in percent; 100 for a batch without objects, as in the original."""
        return 100.0 * (1.0 - self.correct / jnp.maximum(self.objects, 1.0))

    @property
    def cardinality_error(self) -> Float[Array, " L"]:
        """Mean difference between the number of claimed and of real objects."""
        return self.miscounted / jnp.maximum(self.images, 1.0)


def count_errors(
    predictions: Predictions,
    targets: Targets,
    query_of_target: Int[Array, "L B T"],
    class_loss: ClassLoss,
    present: Bool[Array, " B"] | None = None,
) -> Errors:
    """Counts for the log, over the rows that are ``present``; no gradient is meant to flow through them."""
    present = jnp.ones(targets.valid.shape[0], bool) if present is None else present
    ranked_first = jnp.argmax(predictions.logits[-1], axis=-1)  # [B N]
    query = jnp.minimum(query_of_target[-1], ranked_first.shape[-1] - 1)
    correct = (jnp.take_along_axis(ranked_first, query, axis=-1) == targets.labels) & targets.valid
    claimed = jnp.sum(class_loss.claims(predictions.logits), axis=-1)  # [L B]
    objects = jnp.sum(targets.valid, axis=-1)  # [B]
    return Errors(
        jnp.sum(correct).astype(jnp.float32),
        jnp.sum(objects).astype(jnp.float32),
        jnp.sum(jnp.where(present[None], jnp.abs(claimed - objects[None]), 0), axis=-1).astype(jnp.float32),
        jnp.sum(present).astype(jnp.float32),
    )
