"""The set prediction loss (section 3.1 of the paper): named, unweighted terms, one value per layer.

All sums are divided by counts that are known before the model runs (``Normalizers``), so a batch cut into micro-batches
gives the same gradient as the whole.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from detr_jax import boxes
from detr_jax.structures import Array, Outputs, Predictions, Targets
from detr_jax.training.class_loss import ClassLoss


class LossWeights(NamedTuple):
    """Weight of each term in the total."""

    loss_ce: float = 1.0
    loss_bbox: float = 5.0
    loss_giou: float = 2.0


class Normalizers(NamedTuple):
    """What the sums over a batch are divided by."""

    objects: Float[Array, ""]  # targets in the global batch, at least 1
    class_weight: Float[Array, " G"]  # total weight of the class term, per group of images


def normalizers(targets: Targets, num_queries: int, class_loss: ClassLoss, groups: int = 1) -> Normalizers:
    """The divisors for a global batch.

    Each target is matched to one query of its own, so the class term's total weight follows from the counts.
    ``groups=1`` divides by the batch's weight; ``groups`` = number of devices reproduces the original, where each
    process divides by its own weight and the results are averaged.
    """
    counts = jnp.sum(targets.valid, axis=-1).astype(jnp.float32)  # [B]
    by_group = jnp.sum(class_loss.weight(counts, num_queries).reshape(groups, -1), axis=-1)
    # At least 1 only where nothing weighs anything: the softmax always weighs something.
    return Normalizers(jnp.maximum(jnp.sum(counts), 1.0), jnp.where(by_group > 0, by_group, 1.0))


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
    class_loss: ClassLoss,
    counted: Bool[Array, "B N"] | None = None,
) -> dict[str, Float[Array, " L"]]:
    """``loss_ce``, ``loss_bbox`` and ``loss_giou`` of every layer, in float32, unweighted.

    Queries that are not ``counted`` have no part in the class term.
    """
    layers, images, queries, classes = predictions.logits.shape

    wanted = matched_classes(targets, query_of_target, queries, class_loss.no_object(classes))
    of_query = class_loss.loss(predictions.logits.astype(jnp.float32), wanted)  # [L B N]
    if counted is not None:
        of_query = jnp.where(counted[None], of_query, 0.0)
    groups = divisors.class_weight.shape[0]
    by_group = jnp.sum(of_query.reshape(layers, groups, -1), axis=-1)
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


def denoising_losses(
    denoised: Predictions, targets: Targets, objects: Float[Array, ""], class_loss: ClassLoss
) -> dict[str, Float[Array, " L"]]:
    """The same terms for noised objects, whose target needs no matching; a mean over their groups.

    Args:
      denoised: of the groups one after another, [L B G*T ...].
      objects: targets in the global batch, at least 1.
    """
    layers, images, noised, _ = denoised.logits.shape
    slots = targets.valid.shape[1]

    def groups_as_layers(x):  # [L B G*T c] -> [L*G B T c]
        x = x.reshape(layers, images, noised // slots, slots, -1)
        return jnp.swapaxes(x, 1, 2).reshape(-1, images, slots, x.shape[-1])

    by_group = Predictions(*map(groups_as_layers, denoised))
    own = jnp.where(targets.valid, jnp.arange(slots, dtype=jnp.int32)[None], slots)
    own = jnp.broadcast_to(own[None], (by_group.logits.shape[0], *own.shape))
    divisors = Normalizers(objects, objects[None])
    terms = losses(by_group, targets, own, divisors, class_loss, counted=targets.valid)
    return {name: jnp.mean(values.reshape(layers, -1), axis=1) for name, values in terms.items()}


def counted(decoded: Predictions, auxiliary: bool) -> Predictions:
    """Every decoder layer, or only the last."""
    return decoded if auxiliary else Predictions(*(values[-1:] for values in decoded))


def layers_of(outputs: Outputs, auxiliary: bool) -> Predictions:
    """Everything that is matched: the encoder's proposals, if any, then the decoder layers that count."""
    decoded = counted(Predictions(outputs.logits, outputs.boxes), auxiliary)
    if outputs.proposals is None:
        return decoded
    return Predictions(*(jnp.concatenate(pair) for pair in zip(outputs.proposals, decoded, strict=True)))


def apart(terms: dict[str, Float[Array, " L"]], suffix: str, first: int) -> dict[str, Array]:
    """The same terms, with the ``first`` layers under names of their own."""
    named = {}
    for name, values in terms.items():
        named |= {name + suffix: values[:first], name: values[first:]}
    return named


def total(terms: dict[str, Float[Array, " _"]], weights: LossWeights) -> Float[Array, ""]:
    """The number that is minimised: every layer's terms, weighted by the kind that their names begin with."""
    kinds = weights._asdict()
    return sum(kinds["_".join(name.split("_")[:2])] * jnp.sum(values) for name, values in terms.items())


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


def errors(
    predictions: Predictions, targets: Targets, query_of_target: Int[Array, "L B T"], class_loss: ClassLoss
) -> Errors:
    """Counts for the log; no gradient is meant to flow through them."""
    ranked_first = jnp.argmax(predictions.logits[-1], axis=-1)  # [B N]
    query = jnp.minimum(query_of_target[-1], ranked_first.shape[-1] - 1)
    correct = (jnp.take_along_axis(ranked_first, query, axis=-1) == targets.labels) & targets.valid
    claimed = jnp.sum(class_loss.claims(predictions.logits), axis=-1)  # [L B]
    objects = jnp.sum(targets.valid, axis=-1)  # [B]
    return Errors(
        jnp.sum(correct).astype(jnp.float32),
        jnp.sum(objects).astype(jnp.float32),
        jnp.sum(jnp.abs(claimed - objects[None]), axis=-1).astype(jnp.float32),
        jnp.float32(predictions.logits.shape[1]),
    )
