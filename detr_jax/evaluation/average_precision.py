"""COCO's matching and averaging, for all images and classes at once.

pycocotools computes the overlaps; arrays replace its loop over images, classes, sizes, detections and thresholds, with
the same numbers to the last bits. Each detection, best score first, takes the free object that it overlaps most;
a higher IoU threshold only leaves fewer pairs. So the thresholds are the bits of one integer, and one pass over the few
pairs that overlap at all matches at every threshold. Source: ``cocoeval.py`` of pycocotools, the oracle of the tests.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pycocotools import mask as mask_api

from detr_jax.evaluation.protocol import COCO, RULES, Area, Figure, Protocol

RECALLS = RULES.recThrs
ONE = 1 - 1e-10  # an IoU threshold of 1, which rounding would keep from being reached


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


class MatchTable(NamedTuple):
    """What each of M detections is for A ranges of area: by class, then by descending score.

    Bits are thresholds of IoU, the lowest first. A detection that neither hits nor misses is ignored.
    """

    protocol: Protocol

    images: Int[np.ndarray, " M"]
    labels: Int[np.ndarray, " M"]
    ranks: Int[np.ndarray, " M"]  # among those of its class in its image
    hits: Int[np.ndarray, "A M"]  # where it finds an object that counts
    misses: Int[np.ndarray, "A M"]  # where it is wrong
    objects: Instances  # as they were given
    counted: Bool[np.ndarray, "A N"]  # objects to find: no crowds, and in the range
    overlaps: Float[np.ndarray, " matches"]  # of the hits at the lowest IoU, objects of every size together
    found: Bool[np.ndarray, " N"]  # objects that are found at the lowest IoU, crowds included


class Scores(NamedTuple):
    """By T IoU thresholds, 101 recall levels, K classes, A ranges of area and L limits; -1 without objects."""

    precision: Float[np.ndarray, "T 101 K A"]  # with the largest limit
    recall: Float[np.ndarray, "T K A L"]

    def values(self, figure: Figure) -> Float[np.ndarray, "*axes K"]:
        """What a figure is the mean of."""
        if figure.is_recall:
            return self.recall[:, :, figure.area, figure.limit]
        return self.precision[slice(None) if figure.iou is None else figure.iou, ..., figure.area]


def mean_over_existing(values: np.ndarray) -> float:
    """COCO's mean: -1 marks what does not exist and is left out; -1 if nothing exists."""
    existing = values[values > -1]
    return float(existing.mean()) if existing.size else -1.0


class _Pairs(NamedTuple):
    """Detections and objects of one image and class that are near enough, by detection, the nearest object first."""

    detections: Int[np.ndarray, " P"]
    objects: Int[np.ndarray, " P"]
    ious: Float[np.ndarray, " P"]


def match_all(
    objects: Instances,
    crowds: UInt8[np.ndarray, " N"],
    detections: Instances,
    confidences: Float[np.ndarray, " M"],
    protocol: Protocol = COCO,
) -> MatchTable:
    """Matches detections with the ground truth.

    Args:
      objects: the ground truth.
      crowds: 1 where an object is a crowd, which is never missed and matches any number of detections.
      detections: those to match; of equal scores the first row comes first.
      confidences: their scores.
      protocol: IoU thresholds, ranges of area, outside of which objects are ignored, and how many detections of one
        class in an image count.
    """
    ious, areas, limits = protocol
    images = int(1 + max(objects.images.max(initial=0), detections.images.max(initial=0)))
    by_group = np.argsort(objects.groups(images), kind="stable")
    sorted_objects, sorted_crowds = objects.at(by_group), crowds[by_group]
    order, ranks = best_of_groups(detections.groups(images), confidences, limits[-1])
    detections, confidences = detections.at(order), confidences[order]
    pairs = _pairs(sorted_objects, sorted_crowds, detections, images, ious[0])
    every = (1 << len(ious)) - 1

    hits, misses = np.zeros((2, len(areas), len(order)), np.int64)
    counted = np.zeros((len(areas), len(crowds)), bool)
    for a, area in enumerate(areas):
        ignored = (sorted_crowds > 0) | _outside(sorted_objects, area)
        won = _match(pairs, ignored, sorted_crowds, ious)
        counts = ~ignored[pairs.objects]
        if a == 0:
            matched = (won & 1).astype(bool)
            overlaps = pairs.ious[matched & counts]
            found = np.zeros(len(by_group), bool)
            found[by_group[pairs.objects[matched]]] = True
        taken = np.zeros(len(order), np.int64)
        np.bitwise_or.at(hits[a], pairs.detections[counts], won[counts])
        np.bitwise_or.at(taken, pairs.detections, won)
        misses[a] = np.where(_outside(detections, area), 0, every & ~taken)
        counted[a, by_group] = ~ignored
    by_score = np.lexsort((-confidences, detections.labels))
    return MatchTable(
        protocol=protocol,
        images=detections.images[by_score],
        labels=detections.labels[by_score],
        ranks=ranks[by_score],
        hits=hits[:, by_score],
        misses=misses[:, by_score],
        objects=objects,
        counted=counted,
        overlaps=overlaps,
        found=found,
    )


def score(matches: MatchTable, classes: int) -> Scores:
    """Precision and recall of K classes."""
    (ious, _, limits), areas = matches.protocol, len(matches.hits)
    ends = np.searchsorted(matches.labels, np.arange(classes + 1))  # where each class starts, and the last one ends
    precision = np.full((len(ious), len(RECALLS), classes, areas), -1.0)
    recall = np.full((len(ious), classes, areas, len(limits)), -1.0)
    for a in range(areas):
        present = np.bincount(matches.objects.labels[matches.counted[a]], minlength=classes)
        for k in np.flatnonzero(present):
            rows = slice(ends[k], ends[k + 1])
            hit = bits(matches.hits[a, rows], len(ious))
            precision[:, :, k, a] = precision_at_recalls(hit, bits(matches.misses[a, rows], len(ious)), present[k])
            for n, limit in enumerate(limits):
                recall[:, k, a, n] = hit[:, matches.ranks[rows] < limit].sum(axis=1) / present[k]
    return Scores(precision, recall)


def best_of_groups(
    groups: Int[np.ndarray, " M"], confidences: Float[np.ndarray, " M"], limit: int
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """The ``limit`` most confident rows of each group, by group, then by descending confidence; and their ranks in it.

    Of equally confident rows the first comes first.
    """
    order = np.lexsort((-confidences, groups))
    ranks = np.arange(len(order)) - np.searchsorted(groups[order], groups[order])
    return order[ranks < limit], ranks[ranks < limit]


def _outside(instances: Instances, area: Area) -> Bool[np.ndarray, " N"]:
    return (instances.areas < area.low) | (instances.areas > area.high)


def _pairs(objects: Instances, crowds: np.ndarray, detections: Instances, images: int, least: float) -> _Pairs:
    """The pairs of objects and detections, both sorted by group, with this IoU or more."""
    groups, first, count = np.unique(objects.groups(images), return_index=True, return_counts=True)
    start, end = (np.searchsorted(detections.groups(images), groups, side) for side in ("left", "right"))
    rows, ious = [np.zeros((2, 0), int)], [np.zeros(0)]
    for d, d_end, o, o_end in np.stack([start, end, first, first + count], axis=1)[end > start].tolist():
        table = mask_api.iou(detections.shapes[d:d_end], objects.shapes[o:o_end], crowds[o:o_end])
        near = np.nonzero(table >= min(least, ONE))
        rows.append(np.stack(near) + [[d], [o]])
        ious.append(table[near])
    (of_detections, of_objects), ious = np.concatenate(rows, axis=1), np.concatenate(ious)
    order = np.lexsort((-of_objects, -ious, of_detections))  # of equally near objects pycocotools takes the last
    return _Pairs(of_detections[order], of_objects[order], ious[order])


def _match(pairs: _Pairs, ignored: np.ndarray, crowds: np.ndarray, thresholds: tuple) -> Int[np.ndarray, " P"]:
    """The thresholds at which each pair is a match, as bits."""
    order = np.lexsort((ignored[pairs.objects], pairs.detections))  # an ignored object only where no other overlaps
    detections, objects, ious = (column[order] for column in pairs)
    reached = np.searchsorted(np.minimum(thresholds, ONE), ious, side="right")  # how many thresholds
    every = (1 << len(thresholds)) - 1
    unmatched, free, won = [every] * (1 + detections.max(initial=0)), [every] * len(crowds), []
    columns = (detections, objects, (1 << reached) - 1, crowds[objects])
    for detection, target, near, crowd in zip(*(column.tolist() for column in columns), strict=True):
        now = near & unmatched[detection] & free[target]
        won.append(now)
        if now:
            unmatched[detection] ^= now
            if not crowd:
                free[target] ^= now
    return np.array(won, np.int64)[np.argsort(order)]


def bits(values: Int[np.ndarray, " N"], count: int) -> Bool[np.ndarray, "T N"]:
    """Whether the bit of each of so many thresholds is set."""
    return (values >> np.arange(count)[:, None] & 1).astype(bool)


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
