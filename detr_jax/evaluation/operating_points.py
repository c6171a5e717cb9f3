"""Where to cut the scores of a class: precision, recall, F1 and LRP for every threshold, and the best of them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from detr_jax.evaluation.pairing import FOREGROUND, Pairing

NEVER = 1.01  # the threshold of a class of which nothing is correct


class Curve(NamedTuple):
    """One class; an entry for each score that occurs, descending: what holds when it is the threshold."""

    scores: Float[np.ndarray, " T"]
    precision: Float[np.ndarray, " T"]
    recall: Float[np.ndarray, " T"]  # 0 where there is no object
    lrp: Float[np.ndarray, " T"]
    error: Float[np.ndarray, " T"]  # mean of 1 - IoU of the correct detections; 0 where there are none
    objects: int

    @property
    def f1(self) -> Float[np.ndarray, " T"]:
        """The harmonic mean of precision and recall."""
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)


class Point(NamedTuple):
    """What one threshold gives."""

    threshold: float
    precision: float
    recall: float
    f1: float


class Lrp(NamedTuple):
    """Optimal LRP (Oksuz et al. 2018, arXiv 1807.01696): 0 is perfect, 1 is nothing found. The parts are those of the
    threshold where it is lowest."""

    value: float
    box: float  # mean of 1 - IoU of the correct detections
    false_positives: float  # 1 - precision
    false_negatives: float  # 1 - recall
    threshold: float


def draw_curves(pairing: Pairing, classes: int) -> list[Curve]:
    """The curve of each class."""
    kept = ~pairing.ignored
    objects = np.bincount(pairing.objects.labels, minlength=classes)
    order = np.argsort(-pairing.scores, kind="stable")
    order = order[kept[order]]
    return [_curve(pairing, order[pairing.detections.labels[order] == k], int(objects[k])) for k in range(classes)]


def _curve(pairing: Pairing, rows: np.ndarray, objects: int) -> Curve:
    """Of these detections, by descending score."""
    scores, correct = pairing.scores[rows], pairing.correct[rows]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # equal scores fall on one side of a threshold together
    hits = np.cumsum(correct)[last].astype(float)
    misplaced = np.cumsum(np.where(correct, 1.0 - pairing.hit_iou[rows], 0.0))[last]
    detections = last + 1.0
    missed = objects - hits
    lrp = (misplaced / (1.0 - FOREGROUND) + (detections - hits) + missed) / np.maximum(detections + missed, 1.0)
    recall = hits / max(objects, 1)
    error = np.divide(misplaced, hits, out=np.zeros_like(hits), where=hits > 0)
    return Curve(scores[last], hits / detections, recall, lrp, error, objects)


def thin(curve: Curve, most: int) -> list[Point]:
    """At most so many points of a curve, by descending threshold: spread evenly over the recall and over the scores,
    with the first, the last and that of the highest F1."""
    if not curve.scores.size:
        return []
    last, half = curve.scores.size - 1, max((most - 3) // 2, 2)
    by_recall = np.searchsorted(curve.recall, np.linspace(0, curve.recall[-1], half))
    by_score = np.searchsorted(-curve.scores, np.linspace(-curve.scores[0], -curve.scores[-1], half))
    chosen = np.concatenate([by_recall, by_score, [0, last, curve.f1.argmax()]])
    return [_point(curve, index) for index in np.unique(np.minimum(chosen, last)).tolist()]


def best_f1(curve: Curve) -> Point | None:
    """The threshold of the highest F1, the highest one of equals; None where nothing is correct."""
    f1 = curve.f1
    return _point(curve, int(f1.argmax())) if f1.size and f1.max() > 0 else None


def with_precision(curve: Curve, precision: float) -> Point | None:
    """The threshold that finds the most with at least this precision; None where none has it."""
    enough = np.flatnonzero((curve.precision >= precision) & (curve.recall > 0))
    return _point(curve, int(enough[curve.recall[enough].argmax()])) if enough.size else None


def _point(curve: Curve, index: int) -> Point:
    values = (curve.scores[index], curve.precision[index], curve.recall[index], curve.f1[index])
    return Point(*(float(value) for value in values))


def apply_points(
    pairing: Pairing, points: list[Point | None]
) -> tuple[Float[np.ndarray, " K"], Bool[np.ndarray, " M"], Bool[np.ndarray, " N"]]:
    """The threshold of each class, the detections that reach it, and the objects that these find."""
    thresholds = np.array([point.threshold if point else NEVER for point in points])
    shown = ~pairing.ignored & (pairing.scores >= thresholds[pairing.detections.labels])
    found = pairing.found.copy()
    found[found] = shown[pairing.found_by[found]]
    return thresholds, shown, found


def mean_lrp(lrp: list[Lrp | None]) -> float:
    """Of the classes with objects; -1 without any."""
    values = [one.value for one in lrp if one]
    return float(np.mean(values)) if values else -1.0


def optimal_lrp(curve: Curve) -> Lrp | None:
    """None where there is no object. Without detections, or where each makes it worse, it is 1."""
    if not curve.objects:
        return None
    if not curve.lrp.size or curve.lrp.min() >= 1.0:
        return Lrp(1.0, 0.0, 0.0, 1.0, 1.0)
    best = int(curve.lrp.argmin())
    parts = curve.error[best], 1.0 - curve.precision[best], 1.0 - curve.recall[best], curve.scores[best]
    return Lrp(float(curve.lrp[best]), *(float(part) for part in parts))
