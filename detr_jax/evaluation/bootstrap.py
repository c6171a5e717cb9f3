"""What chance may have done to COCO's numbers: the same numbers of many draws of the images (a paired bootstrap).

An image that is drawn twice counts twice. Nothing is matched again: matches do not depend on other images, so a draw
only gives each detection and object a weight. Precision matters where an object is found; between two such places the
weights of all detections are summed by one sparse product for all draws. Of equal scores, all copies of one detection
come before those of the next.
"""

import functools
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from detr_jax.evaluation.average_precision import RECALLS, MatchTable
from detr_jax.evaluation.protocol import COCO

NUMBERS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
IOUS = len(COCO.ious)
EVERY_IOU = (1 << IOUS) - 1
AT_ONCE = 1 << 22  # numbers that are computed together: of all draws unless a class has very many objects


class Draws(NamedTuple):
    """COCO's numbers of R draws; NaN where a draw has no object of that size or class."""

    numbers: Float[np.ndarray, "R 6"]  # in the order of NUMBERS
    classes: Float[np.ndarray, "R K"]  # AP


def draw_images(images: int, draws: int, seed: int) -> Int[np.ndarray, "I R"]:
    """How often each image is drawn when as many are drawn as there are, with replacement."""
    if not images:
        return np.zeros((0, draws), int)
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), draws).T


def score_draws(matches: MatchTable, classes: int, weights: Int[np.ndarray, "I R"]) -> Draws:
    """COCO's numbers of each draw.

    Args:
      matches: of all detections, for COCO's four ranges of area.
      classes: K.
      weights: how often each image is drawn; detectors are compared on the same draws.
    """
    most = np.bincount(matches.labels[matches.hits[0] > 0], minlength=1).max()
    step = int(max(AT_ONCE // max(most, 1), 1))
    parts = [
        _score_some(matches, classes, np.ascontiguousarray(weights[:, start : start + step], float))
        for start in range(0, weights.shape[1], step)
    ]
    return Draws(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _score_some(matches: MatchTable, classes: int, weights: Float[np.ndarray, "I R"]) -> Draws:
    areas, draws = len(matches.hits), weights.shape[1]
    values = np.full((areas, classes, IOUS, draws), np.nan)
    ends = np.searchsorted(matches.labels, np.arange(classes + 1))
    for a in range(areas):
        objects = np.flatnonzero(matches.counted[a])
        objects = objects[np.argsort(matches.objects.labels[objects], kind="stable")]
        last = np.searchsorted(matches.objects.labels[objects], np.arange(classes), side="right")
        present = _sum_runs(matches.objects.images[objects], last, weights)
        for k in np.flatnonzero(present.any(axis=1)):
            rows = slice(ends[k], ends[k + 1])
            columns = matches.images[rows], matches.hits[a, rows], matches.misses[a, rows]
            values[a, k] = _average_precision(*columns, present[k].astype(int), weights)
            values[a, k, :, present[k] == 0] = np.nan
    every, of_class = values[0], values.mean(axis=2)  # [A, K, R]
    numbers = [of_class[0], every[:, 0], every[:, 5], *of_class[1:]]
    return Draws(np.stack([_mean_of_present(number) for number in numbers], axis=1), of_class[0].T)


def _mean_of_present(values: Float[np.ndarray, "K R"]) -> Float[np.ndarray, " R"]:
    """Over the classes that a draw has objects of."""
    present = ~np.isnan(values)
    total = np.where(present, values, 0.0).sum(axis=0)
    return np.divide(total, present.sum(axis=0), out=np.full_like(total, np.nan), where=present.any(axis=0))


def _sum_runs(images: Int[np.ndarray, " n"], ends: Int[np.ndarray, " m"], weights) -> Float[np.ndarray, "m R"]:
    """The weights of things in m runs, one after another, that end before these places."""
    starts = np.concatenate([[0], ends])
    table = csr_array((np.ones(starts[-1]), images[: starts[-1]], starts), shape=(len(ends), len(weights)))
    return table @ weights


def _accumulate(combine: np.ufunc, rows: Float[np.ndarray, "n R"]) -> None:
    """``combine.accumulate`` over the rows in place; numpy's own takes the columns one by one, which is slower."""
    for one, following in pairwise(rows):
        combine(one, following, out=following)


def _average_precision(
    images: Int[np.ndarray, " n"],
    hits: Int[np.ndarray, " n"],
    misses: Int[np.ndarray, " n"],
    objects: Int[np.ndarray, " R"],
    weights: Float[np.ndarray, "I R"],
) -> Float[np.ndarray, "10 R"]:
    """Of the detections of one class, by descending score."""
    values = np.zeros((IOUS, len(objects)))
    places = np.flatnonzero(hits)
    if not places.size:
        return values
    counts = hits | misses
    whole, partly = np.flatnonzero(counts == EVERY_IOU), np.flatnonzero((counts > 0) & (counts != EVERY_IOU))
    before = _sum_up_to(places, whole, images, weights)
    levels, offsets = _levels_of(objects)
    for t in range(IOUS):
        here = np.flatnonzero(hits[places] >> t & 1)
        if not here.size:
            continue
        rows = places[here]
        found = weights[images[rows]]
        _accumulate(np.add, found)
        detections = before[here]
        if (some := partly[(counts[partly] >> t & 1).astype(bool)]).size:
            detections += _sum_up_to(rows, some, images, weights)
        best = found / np.maximum(detections, 1.0, out=detections)
        _accumulate(np.maximum, best[::-1])  # at this place or any later one
        reached = levels.take(found.astype(int) + offsets)
        reached[1:] -= reached[:-1].copy()
        values[t] = np.einsum("nr,nr->r", best, reached)
    return values / len(RECALLS)


def _sum_up_to(places: np.ndarray, rows: np.ndarray, images: np.ndarray, weights) -> Float[np.ndarray, "n R"]:
    """The weights of these rows up to each place, which is counted; both ascend."""
    sums = _sum_runs(images[rows], np.searchsorted(rows, places, side="right"), weights)
    _accumulate(np.add, sums)
    return sums


def _levels_of(objects: Int[np.ndarray, " R"]) -> tuple[Float[np.ndarray, " all"], Int[np.ndarray, " R"]]:
    """Tables of how many recall levels 0, 1, 2, ... found objects reach, and where that of each draw starts."""
    tables = [_levels(count) for count in objects.tolist()]
    return np.concatenate(tables), np.cumsum([0, *(len(table) for table in tables[:-1])])


@functools.lru_cache(20_000)
def _levels(objects: int) -> Float[np.ndarray, " n"]:
    return np.searchsorted(RECALLS, np.arange(objects + 1) / max(objects, 1), side="right").astype(float)
