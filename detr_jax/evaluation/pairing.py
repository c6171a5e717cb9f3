"""Which detection goes with which object: the ground on which errors are counted.

A detection is correct when it finds an object of its class at IoU 0.5 that no better detection has found. The others
are told apart by the objects they overlap: of their own class, and of any other.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as mask_api
from tqdm import tqdm

from detr_jax.evaluation.average_precision import Instances, best_of_groups

FOREGROUND = 0.5  # IoU from which a detection finds an object
PER_IMAGE = 100  # the best detections of an image, of all classes together, that count


class Pairing(NamedTuple):
    """Objects (crowds apart) and detections; the latter by image, then by descending score."""

    objects: Instances
    detections: Instances
    scores: Float[np.ndarray, " M"]
    rows: Int[np.ndarray, " M"]  # which result each detection is
    hits: Int[np.ndarray, " M"]  # the object that each one finds, -1 if none
    found_by: Int[np.ndarray, " N"]  # the detection that finds each object, -1 if none
    ignored: Bool[np.ndarray, " M"]  # finds nothing, and lies in a crowd of its class
    own: Int[np.ndarray, " M"]  # the nearest object of the same class, -1 if there is none, ...
    own_iou: Float[np.ndarray, " M"]  # ... and how near
    other: Int[np.ndarray, " M"]  # the same of the other classes
    other_iou: Float[np.ndarray, " M"]
    first_come: Int[np.ndarray, " M"]  # the object that each one takes when classes do not matter, -1 if none
    hit_iou: Float[np.ndarray, " M"]  # IoU with the object that it finds, 0 if none

    @property
    def correct(self) -> Bool[np.ndarray, " M"]:
        """Whether a detection finds an object."""
        return self.hits >= 0

    @property
    def found(self) -> Bool[np.ndarray, " N"]:
        """Whether an object is found."""
        return self.found_by >= 0


def pair(
    objects: Instances,
    crowds: Bool[np.ndarray, " N"],
    detections: Instances,
    scores: Float[np.ndarray, " M"],
    images: int,
) -> Pairing:
    """Pairs the objects and detections of ``images`` images; of equal scores the first row comes first."""
    order, _ = best_of_groups(detections.images, scores, PER_IMAGE)
    detections, scores = detections.at(order), scores[order]
    crowd, objects = objects.at(np.flatnonzero(crowds)), objects.at(np.flatnonzero(~crowds))
    by_image = [np.argsort(kind.images, kind="stable") for kind in (objects, crowd)]
    objects, crowd = (kind.at(rows) for kind, rows in zip((objects, crowd), by_image, strict=True))
    edges = [np.searchsorted(kind.images, np.arange(images + 1)).tolist() for kind in (objects, crowd, detections)]

    count = len(order)
    hits, own, other, first_come = np.full((4, count), -1)
    own_iou, other_iou, hit_iou = np.zeros((3, count))
    ignored, found_by = np.zeros(count, bool), np.full(len(objects.images), -1)
    with_detections = np.flatnonzero(np.diff(edges[2]))
    for image in tqdm(with_detections, "pairing", unit=" images", disable=None, leave=False):
        of_objects, of_crowd, here = (slice(edge[image], edge[image + 1]) for edge in edges)
        labels, start = detections.labels[here, None], of_objects.start
        if of_objects.stop > start:
            table = _overlaps(detections.shapes[here], objects.shapes[of_objects], crowd=False)
            same = labels == objects.labels[of_objects]
            for mask, place, value in ((same, own, own_iou), (~same, other, other_iou)):
                masked = np.where(mask, table, -1.0)
                place[here] = np.where(mask.any(axis=1), start + masked.argmax(axis=1), -1)
                value[here] = np.maximum(masked.max(axis=1), 0.0)
            hits[here] = _take(np.where(same, table, 0.0), start)
            rows = np.flatnonzero(hits[here] >= 0)
            hit_iou[here.start + rows] = table[rows, hits[here][rows] - start]
            first_come[here] = _take(table, start)
        if of_crowd.stop > of_crowd.start:
            table = _overlaps(detections.shapes[here], crowd.shapes[of_crowd], crowd=True)
            inside = (table > FOREGROUND) & (labels == crowd.labels[of_crowd])
            ignored[here] = inside.any(axis=1) & (hits[here] < 0)
    correct = np.flatnonzero(hits >= 0)
    found_by[hits[correct]] = correct
    return Pairing(
        objects, detections, scores, order, hits, found_by, ignored, own, own_iou, other, other_iou, first_come, hit_iou
    )


def _overlaps(detections, objects, crowd: bool) -> Float[np.ndarray, "D O"]:
    return mask_api.iou(detections, objects, [crowd] * len(objects))


def _take(table: Float[np.ndarray, "D O"], start: int) -> Int[np.ndarray, " D"]:
    """Each detection in order takes the nearest free object, if it is near enough."""
    taken = np.full(len(table), -1)
    free = table.copy()
    for row in np.flatnonzero(table.max(axis=1) >= FOREGROUND):
        nearest = free[row].argmax()
        if free[row, nearest] >= FOREGROUND:
            taken[row] = start + nearest
            free[:, nearest] = 0.0
    return taken
