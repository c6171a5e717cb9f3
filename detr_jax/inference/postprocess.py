"""From the model's predictions of every query to the detections of an image: the original's rule.

Softmax over all K+1 classes, the no-object probability dropped, the best real class of each query. All N queries are
kept, even those whose likeliest class is no-object (worth about 2 AP, DETR paper section 4): no threshold, no
suppression of duplicates, no clipping at the edge of the image. Source: ``PostProcess`` of facebookresearch/detr.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from detr_jax import boxes as box_ops
from detr_jax.structures import Array, Categories, Detections

COCO_MOST = 100  # detections of an image that COCO's evaluation counts


def top_class(
    logits: Float[Array, "*b N K_plus_1"], boxes: Float[Array, "*b N 4"]
) -> tuple[Float[Array, "*b N"], Int[Array, "*b N"], Float[Array, "*b N 4"]]:
    """Score and label (0..K-1) of the best real class of each query, and its box as corners in [0, 1].

    Computed in float32 whatever the model's precision.
    """
    probabilities = _real_classes(logits)
    labels = probabilities.argmax(axis=-1)
    return probabilities.max(axis=-1), labels, box_ops.to_xyxy(boxes.astype(jnp.float32))


def queries_of_classes(logits: Float[Array, "*b N K_plus_1"], count: int) -> Int[Array, "*b M"]:
    """The queries of the ``count`` best detections of ``top_class``, best first."""
    scores = _real_classes(logits).max(axis=-1)
    return jax.lax.top_k(scores, min(count, scores.shape[-1]))[1]


def _real_classes(logits: Float[Array, "*b N K_plus_1"]) -> Float[Array, "*b N K"]:
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)[..., :-1]  # no-object is the last class


def top_pairs(
    logits: Float[Array, "*b N K"], boxes: Float[Array, "*b N 4"]
) -> tuple[Float[Array, "*b M"], Int[Array, "*b M"], Float[Array, "*b M 4"]]:
    """The M best pairs of query and class by their sigmoids, best first, as Deformable DETR takes them.

    M is the number of queries, but at least 100 where there are that many pairs. Otherwise like ``top_class``.
    """
    queries, classes = logits.shape[-2:]
    scores, best = _best_pairs(logits, max(queries, COCO_MOST))
    boxes_xyxy = jnp.take_along_axis(box_ops.to_xyxy(boxes.astype(jnp.float32)), best[..., None] // classes, axis=-2)
    return scores, best % classes, boxes_xyxy


def queries_of_pairs(logits: Float[Array, "*b N K"], count: int) -> Int[Array, "*b M"]:
    """The queries of the ``count`` best detections of ``top_pairs``, best first; one may come twice."""
    return _best_pairs(logits, count)[1] // logits.shape[-1]


def _best_pairs(logits: Float[Array, "*b N K"], count: int) -> tuple[Float[Array, "*b M"], Int[Array, "*b M"]]:
    """Scores of the best pairs, and which they are, counted query by query."""
    pairs = jax.nn.sigmoid(logits.astype(jnp.float32)).reshape(*logits.shape[:-2], -1)
    scores, best = jax.lax.top_k(pairs, min(count, pairs.shape[-1]))
    return scores, best


# By ModelConfig.class_scores.
SELECT = {"softmax": top_class, "sigmoid": top_pairs}
QUERIES = {"softmax": queries_of_classes, "sigmoid": queries_of_pairs}


def make_detections(
    scores: Float[Array, " N"],
    labels: Int[Array, " N"],
    boxes_xyxy: Float[Array, "N 4"],
    size: tuple[int, int],
    categories: Categories,
) -> Detections:
    """The detections of one image, best first, in pixels of the original image.

    Args:
      scores, labels, boxes_xyxy: of ``top_class`` or ``top_pairs``, for one image.
      size: (height, width) of the original image in pixels, not of the resized one.
      categories: the classes that the labels count.
    """
    height, width = size
    best_first = np.argsort(-np.asarray(scores), kind="stable")
    scale = np.array([width, height, width, height], np.float32)
    return Detections(
        boxes_xyxy=np.asarray(boxes_xyxy, np.float32)[best_first] * scale,
        scores=np.asarray(scores)[best_first],
        labels=np.asarray(labels)[best_first],
        categories=categories,
    )
