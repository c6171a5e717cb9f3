"""What a person should look at: annotations that are likely wrong, and the images with the most errors."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from detr_jax.evaluation.pairing import Pairing
from detr_jax.evaluation.tide import TYPES, Tide

LEAST_SCORE = 0.5  # of a detection that makes one doubt an annotation
MOST = 200


class Suspect(NamedTuple):
    """An annotation that is likely missing or wrong, because a sure detection says something else."""

    kind: str  # "missing", "class" or "box"
    image: int  # rank of the image
    detection: int  # row of the pairing
    object: int  # row of the pairing; -1 for a missing one
    score: float


class ImageErrors(NamedTuple):
    """The errors of one image at the thresholds."""

    image: int  # rank of the image
    false_positives: int
    missed: int

    @property
    def errors(self) -> int:
        """Both together."""
        return self.false_positives + self.missed


def find_suspects(pairing: Pairing, tide: Tide) -> list[Suspect]:
    """The most doubtful first: sure detections where nothing is annotated, another class, or another box."""
    found = []
    kinds = {"Bkg": "missing", "Cls": "class", "Loc": "box"}
    for row in np.argsort(-pairing.scores, kind="stable"):
        if pairing.scores[row] < LEAST_SCORE or len(found) == MOST:
            break
        name = TYPES[tide.kinds[row]] if tide.kinds[row] >= 0 else ""
        if name not in kinds:
            continue
        target = {"Bkg": -1, "Cls": pairing.other[row], "Loc": pairing.own[row]}[name]
        if target >= 0 and pairing.found[target]:
            continue  # the annotation is confirmed by another detection
        image = pairing.detections.images[row]
        found.append(Suspect(kinds[name], int(image), int(row), int(target), float(pairing.scores[row])))
    return found


def count_mistakes(
    pairing: Pairing, shown: Bool[np.ndarray, " M"], found: Bool[np.ndarray, " N"], images: int
) -> tuple[Int[np.ndarray, " I"], Int[np.ndarray, " I"]]:
    """The false positives and the missed objects of each image; the arguments are those of ``rank_images``."""
    wrong = shown & ~pairing.correct & ~pairing.ignored
    false_positives = np.bincount(pairing.detections.images[wrong], minlength=images)
    return false_positives, np.bincount(pairing.objects.images[~found], minlength=images)


def rank_images(
    pairing: Pairing, shown: Bool[np.ndarray, " M"], found: Bool[np.ndarray, " N"], images: int
) -> list[ImageErrors]:
    """All images with errors, the worst first.

    Args:
      shown: which detections reach the threshold of their class.
      found: which objects are found by these.
    """
    false_positives, missed = count_mistakes(pairing, shown, found, images)
    order = np.argsort(-(false_positives + missed), kind="stable")
    rows = [ImageErrors(int(i), int(false_positives[i]), int(missed[i])) for i in order]
    return [row for row in rows if row.errors]
