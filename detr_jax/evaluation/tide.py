"""What kinds of error cost how much: the error types of TIDE (Bolya et al. 2020, arXiv 2008.08115).

Every detection that is not correct has one type, and so has every object that none of them could have found. The cost
of a type is how much AP at IoU 0.5 would rise if an oracle corrected these errors and no others.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from detr_jax.evaluation.average_precision import precision_at_recalls
from detr_jax.evaluation.pairing import FOREGROUND, Pairing

BACKGROUND = 0.1  # IoU up to which a detection touches nothing
TYPES = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
MEANINGS = {
    "Cls": "the place is right, the class is wrong",
    "Loc": "the class is right, the box is not",
    "Both": "class and box are wrong",
    "Dupe": "the object has been found already",
    "Bkg": "there is no object",
    "Miss": "an object that nothing comes near",
    "FP": "all wrong detections together",
    "FN": "all objects that are not found together",
}
CORRECT, IGNORED = -1, -2


class Tide(NamedTuple):
    """Errors and what they cost."""

    AP50: float
    costs: dict[str, float]  # of each of MEANINGS: what AP50 would gain, 0 to 1
    counts: dict[str, int]  # of each of TYPES
    kinds: Int[np.ndarray, " M"]  # of each detection: an index into TYPES, CORRECT or IGNORED
    missed: Bool[np.ndarray, " N"]  # which objects are of the type Miss


def find_errors(pairing: Pairing, classes: int) -> Tide:
    """Sorts the errors and computes what each type costs."""
    kinds, ignored = classify(pairing), pairing.ignored
    of_class, of_box = (kinds == TYPES.index(name) for name in ("Cls", "Loc"))
    target = np.where(of_class, pairing.other, np.where(of_box, pairing.own, -1))  # what a correction would find ...
    aimed = np.flatnonzero(target >= 0)
    target[aimed[pairing.found[target[aimed]]]] = -1  # ... unless that is found already
    best = _best_of_each(target, pairing.scores)
    missed = ~pairing.found
    missed[target[target >= 0]] = False

    def count(chosen: Bool[np.ndarray, " N"]) -> Int[np.ndarray, " K"]:
        return np.bincount(pairing.objects.labels[chosen], minlength=classes)

    total = count(np.ones(len(missed), bool))
    by_score = np.argsort(-pairing.scores, kind="stable")
    base = _average_precision(pairing, pairing.detections.labels, pairing.correct, ~ignored, total, by_score)
    errors_first = np.lexsort((pairing.correct, -pairing.scores))  # of equal scores, as in tidecv

    def gain(correct, kept, objects, labels=pairing.detections.labels) -> float:
        return _average_precision(pairing, labels, correct, kept, objects, errors_first) - base

    costs = {}
    for number, name in enumerate(TYPES):
        corrected = (kinds == number) & best
        kept = corrected | ~(ignored | (kinds == number))
        labels, changed = pairing.detections.labels.copy(), corrected & of_class
        labels[changed] = pairing.objects.labels[target[changed]]
        left = total - count(missed) if name == "Miss" else total
        costs[name] = max(gain(pairing.correct | corrected, kept, left, labels), 0.0)
    costs["FP"] = gain(pairing.correct, pairing.correct, total)
    costs["FN"] = gain(pairing.correct, ~ignored, total - count(~pairing.found))
    counts = {name: int((kinds == number).sum()) for number, name in enumerate(TYPES)} | {"Miss": int(missed.sum())}
    return Tide(base, costs, counts, np.where(ignored, IGNORED, kinds), missed)


def classify(pairing: Pairing) -> Int[np.ndarray, " M"]:
    """The type of each detection: an index into TYPES, or CORRECT. Ignored ones have one, too."""
    own, other = pairing.own_iou, pairing.other_iou
    names = ("Loc", "Cls", "Dupe", "Bkg")
    conditions = (
        (own >= BACKGROUND) & (own <= FOREGROUND),
        other >= FOREGROUND,
        own >= FOREGROUND,
        np.maximum(own, other) <= BACKGROUND,
    )
    kinds = np.select(conditions, [TYPES.index(name) for name in names], TYPES.index("Both"))
    return np.where(pairing.correct, CORRECT, kinds)


def _best_of_each(target: Int[np.ndarray, " M"], scores: Float[np.ndarray, " M"]) -> Bool[np.ndarray, " M"]:
    """The detection with the highest score among those with the same target; -1 is no target."""
    aimed = np.flatnonzero(target >= 0)
    aimed = aimed[np.argsort(-scores[aimed], kind="stable")]
    best = np.zeros(len(target), bool)
    best[aimed[np.unique(target[aimed], return_index=True)[1]]] = True
    return best


def _average_precision(
    pairing: Pairing,
    labels: Int[np.ndarray, " M"],
    correct: Bool[np.ndarray, " M"],
    kept: Bool[np.ndarray, " M"],
    objects: Int[np.ndarray, " K"],
    order: Int[np.ndarray, " M"],
) -> float:
    """The mean over the classes that have objects, or had them before a correction.

    Args:
      labels, correct: of each detection, after a correction.
      kept: which detections are left.
      objects: how many there are to find.
      order: all detections by descending score.
    """
    order = order[kept[order]]
    order = order[np.argsort(labels[order], kind="stable")]
    ends = np.searchsorted(labels[order], np.arange(len(objects) + 1))
    values = []
    for k in np.unique(pairing.objects.labels):
        hits = correct[order[ends[k] : ends[k + 1]]][None]
        if objects[k]:
            values.append(precision_at_recalls(hits, ~hits, objects[k]).mean())
        elif hits.size:
            values.append(0.0)
    return float(np.mean(values)) if values else 0.0
