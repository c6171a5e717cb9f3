"""COCO's matching and averaging, for all images and classes at once.

pycocotools computes the overlaps; arrays replace its loop over images, classes, sizes, detections and thresholds, with
the same numbers to the last bits. Each detection, best score first, takes the free object that it overlaps most;
a higher IoU threshold only leaves fewer pairs. So the thresholds are the bits of one integer, and one pass over the few
pairs that overlap at all matches at every threshold. Source: ``cocoeval.py`` of pycocotools, the oracle of the tests.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pycocotools import mask as mask_api
from pycocotools.cocoeval import Params

RULES = Params("bbox")  # the same for "segm"
IOUS, RECALLS, AREAS, LIMITS = RULES.iouThrs, RULES.recThrs, RULES.areaRng, RULES.maxDets
EVERY_IOU = (1 << len(IOUS)) - 1  # a bit for each threshold


class Instances(NamedTuple):
    """Objects of the ground truth or detections, in any order."""

    images: Int[np.ndarray, " N"]  # 0, 1, 2, ... by ascending id
    labels: Int[np.ndarray, " N"]  # 0..K-1 by ascending id
    areas: Float[np.ndarray, " N"]  # pixels
    shapes: Float[np.ndarray, "N 4"] | list[dict]  # boxes, xywh in pixels, or run-length encoded masks

    def at(self, rows: Int[np.ndarray, " M"]) -> "Instances":
        """These rows, in this order."""
        boxes = isinstance(self.shapes, np.ndarray)
        shapes = self.shapes[rows] if boxes else [self.shapes[row] for row in rows]
        return Instances(self.images[rows], self.labels[rows], self.areas[rows], shapes)

    def groups(self, images: int) -> Int[np.ndarray, " N"]:
        """One number for class and image, ascending by class first."""
        return self.labels * images + self.images


class Scores(NamedTuple):
    """By 10 IoU thresholds, 101 recall levels, K classes, A ranges of area and L limits; -1 without objects."""

    precision: Float[np.ndarray, "10 101 K A"]  # with the largest limit
    recall: Float[np.ndarray, "10 K A L"]
    overlaps: Float[np.ndarray, " matches"]  # at IoU 0.5, objects of every size together
    found: Bool[np.ndarray, " N"]  # which objects these matches found, ignored ones included


class _Pairs(NamedTuple):
    """Detections and objects of one image and class with IoU 0.5 or more, by detection, the nearest object first."""

    detections: Int[np.ndarray, " P"]
    objects: Int[np.ndarray, " P"]
    ious: Float[np.ndarray, " P"]


def score(
    objects: Instances,
    crowds: UInt8[np.ndarray, " N"],
    detections: Instances,
    confidences: Float[np.ndarray, " M"],
    classes: int,
    areas: list = AREAS,
    limits: list[int] = LIMITS,
) -> Scores:
    """Scores detections against the ground truth.

    Args:
      objects: the ground truth.
      crowds: 1 where an object is a crowd, which is never missed and matches any number of detections.
      detections: those to score; of equal scores the first row comes first.
      confidences: their scores.
      classes: K.
      areas: ranges [from, to] in pixels, the first of every size; objects outside are ignored.
      limits: how many detections of one class in an image count, ascending.
    """
    images = int(1 + max(objects.images.max(initial=0), detections.images.max(initial=0)))
    by_group = np.argsort(objects.groups(images), kind="stable")
    objects, crowds = objects.at(by_group), crowds[by_group]
    order, ranks = best_of_groups(detections.groups(images), confidences, limits[-1])
    detections, confidences = detections.at(order), confidences[order]
    pairs = _pairs(objects, crowds, detections, images)
    ends = np.searchsorted(detections.labels, np.arange(classes + 1))  # where each class starts, and the last one ends
    by_score = [start + np.argsort(-confidences[start:end], kind="stable") for start, end in pairwise(ends)]

    precision = np.full((len(IOUS), len(RECALLS), classes, len(areas)), -1.0)
    recall = np.full((len(IOUS), classes, len(areas), len(limits)), -1.0)
    for a, area in enumerate(areas):
        ignored = (crowds > 0) | _outside(objects, area)
        won = _match(pairs, ignored, crowds)
        counts = ~ignored[pairs.objects]
        if a == 0:
            matched = (won & 1).astype(bool)
            overlaps = pairs.ious[matched & counts]
            found = np.zeros(len(by_group), bool)
            found[by_group[pairs.objects[matched]]] = True
        hits, taken = np.zeros((2, len(confidences)), np.int64)
        np.bitwise_or.at(hits, pairs.detections[counts], won[counts])
        np.bitwise_or.at(taken, pairs.detections, won)
        misses = np.where(_outside(detections, area), 0, ~taken)
        present = np.bincount(objects.labels[~ignored], minlength=classes)
        for k in np.flatnonzero(present):
            rows = by_score[k]
            hit = _bits(hits[rows])
            precision[:, :, k, a] = precision_at_recalls(hit, _bits(misses[rows]), present[k])
            for n, limit in enumerate(limits):
                recall[:, k, a, n] = hit[:, ranks[rows] < limit].sum(axis=1) / present[k]
    return Scores(precision, recall, overlaps, found)


def best_of_groups(
    groups: Int[np.ndarray, " M"], confidences: Float[np.ndarray, " M"], limit: int
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """The ``limit`` most confident rows of each group, by group, then by descending confidence; and their ranks in it.

    Of equally confident rows the first comes first.
    """
    order = np.lexsort((-confidences, groups))
    ranks = np.arange(len(order)) - np.searchsorted(groups[order], groups[order])
    return order[ranks < limit], ranks[ranks < limit]


def _outside(instances: Instances, area: list) -> Bool[np.ndarray, " N"]:
    return (instances.areas < area[0]) | (instances.areas > area[1])


def _pairs(objects: Instances, crowds: np.ndarray, detections: Instances, images: int) -> _Pairs:
    """The overlapping pairs of objects and detections, both sorted by group."""
    groups, first, count = np.unique(objects.groups(images), return_index=True, return_counts=True)
    start, end = (np.searchsorted(detections.groups(images), groups, side) for side in ("left", "right"))
    rows, ious = [np.zeros((2, 0), int)], [np.zeros(0)]
    for d, d_end, o, o_end in np.stack([start, end, first, first + count], axis=1)[end > start].tolist():
        table = mask_api.iou(detections.shapes[d:d_end], objects.shapes[o:o_end], crowds[o:o_end])
        near = np.nonzero(table >= IOUS[0])
        rows.append(np.stack(near) + [[d], [o]])
        ious.append(table[near])
    (of_detections, of_objects), ious = np.concatenate(rows, axis=1), np.concatenate(ious)
    order = np.lexsort((-of_objects, -ious, of_detections))  # of equally near objects pycocotools takes the last
    return _Pairs(of_detections[order], of_objects[order], ious[order])


def _match(pairs: _Pairs, ignored: np.ndarray, crowds: np.ndarray) -> Int[np.ndarray, " P"]:
    """The thresholds at which each pair is a match, as bits."""
    order = np.lexsort((ignored[pairs.objects], pairs.detections))  # an ignored object only where no other overlaps
    detections, objects, ious = (column[order] for column in pairs)
    reached = np.searchsorted(np.minimum(IOUS, 1 - 1e-10), ious, side="right")  # how many thresholds
    unmatched, free, won = [EVERY_IOU] * (1 + detections.max(initial=0)), [EVERY_IOU] * len(crowds), []
    columns = (detections, objects, (1 << reached) - 1, crowds[objects])
    for detection, target, near, crowd in zip(*(column.tolist() for column in columns), strict=True):
        now = near & unmatched[detection] & free[target]
        won.append(now)
        if now:
            unmatched[detection] ^= now
            if not crowd:
                free[target] ^= now
    return np.array(won, np.int64)[np.argsort(order)]


def _bits(values: Int[np.ndarray, " N"]) -> Bool[np.ndarray, "10 N"]:
    return (values >> np.arange(len(IOUS))[:, None] & 1).astype(bool)


def precision_at_recalls(
    hits: Bool[np.ndarray, "T N"], misses: Bool[np.ndarray, "T N"], objects
) -> Float[np.ndarray, "T 101"]:
    """Precision at each recall level, for T thresholds of IoU.

    Args:
      hits, misses: of the detections by descending score.
      objects: number of objects to find.
    """
    hits, misses = (np.cumsum(flags, axis=1, dtype=float) for flags in (hits, misses))
    precision = hits / (misses + hits + np.spacing(1))
    precision = np.pad(precision, ((0, 0), (0, 1)))  # 0 at recall levels that are never reached
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # at this recall or any higher one
    return np.stack([row[np.searchsorted(found / objects, RECALLS)] for row, found in zip(best, hits, strict=True)])
