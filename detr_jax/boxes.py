"""Box formats and overlaps. One box is (cx, cy, w, h) in [0, 1] unless the name says ``_xyxy``.

``iou``/``giou`` compare boxes pair by pair (any leading axes, broadcast); ``pairwise_giou`` compares all with all.
"""

import jax.numpy as jnp
from jaxtyping import Float

from detr_jax.structures import Array

EPSILON = 1e-12  # keeps 0/0 out of the overlap of two empty boxes; far below a box of one pixel


def to_xyxy(boxes: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """Corners (x0, y0, x1, y1) of (cx, cy, w, h) boxes."""
    centers, sizes = boxes[..., :2], boxes[..., 2:]
    return jnp.concatenate([centers - 0.5 * sizes, centers + 0.5 * sizes], axis=-1)


def from_xyxy(boxes_xyxy: Float[Array, "*b 4"]) -> Float[Array, "*b 4"]:
    """(cx, cy, w, h) of boxes given by their corners."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return jnp.concatenate([0.5 * (low + high), high - low], axis=-1)


def _area(boxes_xyxy):
    return jnp.prod(boxes_xyxy[..., 2:] - boxes_xyxy[..., :2], axis=-1)


def _intersection_and_union(a_xyxy, b_xyxy):
    low = jnp.maximum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = jnp.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    intersection = jnp.prod(jnp.maximum(high - low, 0.0), axis=-1)
    return intersection, _area(a_xyxy) + _area(b_xyxy) - intersection


def iou(a_xyxy: Float[Array, "*#b 4"], b_xyxy: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """Intersection over union, pair by pair; 0 for two empty boxes."""
    intersection, union = _intersection_and_union(a_xyxy, b_xyxy)
    return intersection / jnp.maximum(union, EPSILON)


def giou(a_xyxy: Float[Array, "*#b 4"], b_xyxy: Float[Array, "*#b 4"]) -> Float[Array, "*b"]:
    """Generalised IoU (Rezatofighi et al. 2019), pair by pair, in [-1, 1].

    Unlike the original's, which asserts ordered corners, it is finite for every finite input: training guards
    against non-finite numbers in one place (``training/skipped_steps.py``) instead of in each formula.
    """
    intersection, union = _intersection_and_union(a_xyxy, b_xyxy)
    low = jnp.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = jnp.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    hull = jnp.prod(jnp.maximum(high - low, 0.0), axis=-1)
    return intersection / jnp.maximum(union, EPSILON) - (hull - union) / jnp.maximum(hull, EPSILON)


def pairwise_giou(a_xyxy: Float[Array, "*b n 4"], b_xyxy: Float[Array, "*b m 4"]) -> Float[Array, "*b n m"]:
    """Generalised IoU of every box of one set with every box of the other."""
    return giou(a_xyxy[..., :, None, :], b_xyxy[..., None, :, :])
