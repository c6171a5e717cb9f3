"""Which class is taken for which: counts of objects by their class and by that of the detection that takes them.

Here classes do not matter when detections and objects are paired: by descending score, each detection takes the nearest
free object at IoU 0.5, whatever its class.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from detr_jax.evaluation.pairing import Pairing


class Cells(NamedTuple):
    """What the matrix counts, one by one: detections, then objects that none of them takes."""

    rows: Int[np.ndarray, " C"]
    columns: Int[np.ndarray, " C"]
    images: Int[np.ndarray, " C"]
    scores: Float[np.ndarray, " C"]  # 0 where there is no detection


def list_cells(pairing: Pairing, classes: int, chosen: Bool[np.ndarray, " M"] | None = None) -> Cells:
    """The cell of each detection, and of each object that is left.

    Args:
      chosen: detections that count, by default all. An object whose detection is not chosen counts as not found.
    """
    took = pairing.first_come >= 0
    counted = np.flatnonzero(np.ones(len(took), bool) if chosen is None else chosen)
    left = np.ones(len(pairing.objects.labels), bool)
    left[pairing.first_come[counted[took[counted]]]] = False
    targets = pairing.first_come[counted]
    taken = np.append(pairing.objects.labels, classes)[targets]  # -1 is the background
    objects, detections = pairing.objects.at(np.flatnonzero(left)), pairing.detections.at(counted)
    return Cells(
        np.concatenate([taken, objects.labels]),
        np.concatenate([detections.labels, np.full(len(objects.labels), classes)]),
        np.concatenate([detections.images, objects.images]),
        np.concatenate([pairing.scores[counted], np.zeros(len(objects.labels))]),
    )


def confusion_matrix(
    pairing: Pairing, classes: int, chosen: Bool[np.ndarray, " M"] | None = None
) -> Int[np.ndarray, "K1 K1"]:
    """Counts, the class of the object by row and that of the detection by column; the last of both is the background.

    ``chosen``: as in ``list_cells``.
    """
    cells = list_cells(pairing, classes, chosen)
    matrix = np.zeros((classes + 1, classes + 1), int)
    np.add.at(matrix, (cells.rows, cells.columns), 1)
    return matrix


def rates(matrix: Int[np.ndarray, "K1 K1"]) -> Float[np.ndarray, "K1 K1"]:
    """The same as shares of the objects of each class; 0 where there are none."""
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def most_confused(matrix: Int[np.ndarray, "K1 K1"], limit: int = 20) -> list[tuple[int, int, int]]:
    """(class of the object, class of the detection, how often), most often first, without the background."""
    counts = matrix[:-1, :-1] * (1 - np.eye(len(matrix) - 1, dtype=int))
    order = np.argsort(-counts, axis=None, kind="stable")[:limit]
    rows, columns = np.unravel_index(order, counts.shape)
    found = zip(rows.tolist(), columns.tolist(), counts[rows, columns].tolist(), strict=True)
    return [(row, column, count) for row, column, count in found if count]
