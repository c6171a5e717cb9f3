"""Whether a score means what it says: of the detections with score 0.7, 70 % should be correct.

A detection is correct when it is in the pairing: by descending score each takes the nearest free object of its class at
IoU 0.5. (Looking at each detection alone would call duplicates correct, and give other figures.)
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import isotonic_regression

from detr_jax.evaluation.pairing import Pairing

BINS = 10  # of the reliability diagram and D-ECE
BINS_OF_A_CLASS = 25  # of LaECE


class Reliability(NamedTuple):
    """By bins of equal width over the scores 0 to 1; of an empty bin the means are 0."""

    counts: Float[np.ndarray, " B"]
    scores: Float[np.ndarray, " B"]  # mean score
    precision: Float[np.ndarray, " B"]  # share of correct detections

    @property
    def error(self) -> float:
        """D-ECE (Kueppers et al. 2020): the mean over detections of |mean score - precision| of their bin."""
        gaps = np.abs(self.scores - self.precision) * self.counts
        return float(gaps.sum() / max(self.counts.sum(), 1.0))


class Recalibrated(NamedTuple):
    """Isotonic regression of each class, fitted on the detections of one half of the images."""

    before: float  # D-ECE of the other half ...
    after: float  # ... and with corrected scores
    knots: list[list[tuple[float, float]]]  # of each class: (score, corrected score), ascending; fitted on all images


def reliability(scores: Float[np.ndarray, " M"], values: Float[np.ndarray, " M"], bins: int = BINS) -> Reliability:
    """Bins scores and what they should predict: 1 or 0, or an IoU."""
    place = np.minimum((np.clip(scores, 0.0, 1.0) * bins).astype(int), bins - 1)
    counts, of_scores, of_values = (
        np.bincount(place, weights=weights, minlength=bins) for weights in (np.ones(len(scores)), scores, values)
    )
    some = np.maximum(counts, 1.0)
    return Reliability(counts, of_scores / some, of_values / some)


def detection_reliability(pairing: Pairing) -> Reliability:
    """Of all detections but ignored ones."""
    kept = ~pairing.ignored
    return reliability(pairing.scores[kept], pairing.correct[kept].astype(float))


def localisation_error(pairing: Pairing, classes: int) -> float:
    """LaECE (Oksuz et al. 2023): as D-ECE, with the IoU in place of 1 for a correct detection; the mean over classes
    with detections."""
    kept = ~pairing.ignored
    ious = np.where(pairing.correct, pairing.hit_iou, 0.0)
    rows = [kept & (pairing.detections.labels == k) for k in range(classes)]
    errors = [reliability(pairing.scores[some], ious[some], BINS_OF_A_CLASS).error for some in rows if some.any()]
    return float(np.mean(errors)) if errors else 0.0


def recalibrate(pairing: Pairing, classes: int) -> Recalibrated:
    """Corrects the scores of each class so that they mean what they say, and shows it on images not used for it."""
    kept, labels, scores = ~pairing.ignored, pairing.detections.labels, pairing.scores
    correct = pairing.correct.astype(float)
    fitted = kept & (pairing.detections.images % 2 == 0)
    shown = kept & ~fitted
    corrected = scores.copy()
    for k in range(classes):
        corrected[labels == k] = correct_scores(_fit(scores, correct, fitted & (labels == k)), scores[labels == k])
    before, after = (reliability(values[shown], correct[shown]).error for values in (scores, corrected))
    return Recalibrated(before, after, [_fit(scores, correct, kept & (labels == k)) for k in range(classes)])


def _fit(scores: np.ndarray, correct: np.ndarray, rows: Bool[np.ndarray, " M"]) -> list[tuple[float, float]]:
    """The corners of the rising steps."""
    order = np.flatnonzero(rows)
    order = order[np.argsort(scores[order], kind="stable")]
    if not order.size:
        return []
    places, starts, counts = np.unique(scores[order], return_index=True, return_counts=True)
    means = np.add.reduceat(correct[order], starts) / counts
    fit = isotonic_regression(means, weights=counts)
    ends = np.unique(np.concatenate([fit.blocks[:-1], fit.blocks[1:] - 1]))
    return [(float(places[row]), float(fit.x[row])) for row in ends]


def correct_scores(knots: list[tuple[float, float]], scores: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Corrected scores; without knots they stay as they are."""
    return np.interp(scores, *np.array(knots).T) if knots else scores
