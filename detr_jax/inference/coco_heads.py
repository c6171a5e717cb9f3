"""What the rows of published class heads mean, told by their number."""

import numpy as np

from detr_jax.datasets.coco import COCO_CATEGORIES, COCO_STUFF
from detr_jax.structures import Categories
from detr_jax.weights.sources import HEAD, Weights

# Number of rows -> the tables whose ids are the rows. Of 80, the rows are the classes in order.
COCO_ROWS = {80: [COCO_CATEGORIES], 91: [COCO_CATEGORIES], 250: [COCO_CATEGORIES, COCO_STUFF]}


def classes_of_rows(rows: int) -> Categories:
    """The classes of a head with so many rows, without the one of no object.

    91 rows (boxes) and 250 (panoptic) are indexed by COCO's own ids; those that COCO never used, and the rows of any
    other head, are called by their number.
    """
    if rows == len(COCO_CATEGORIES.ids):
        return COCO_CATEGORIES
    names = {row: name for table in COCO_ROWS.get(rows, []) for row, name in zip(*table, strict=True)}
    return Categories(tuple(range(rows)), tuple(names.get(row, f"class {row}") for row in range(rows)))


def known_classes(weights: Weights) -> Categories | None:
    """The classes of weights: as they say, or by the number of rows if it is that of a published head; else None."""
    if weights.categories is not None:
        return weights.categories
    rows = weights.arrays.get(HEAD[1], np.zeros(1)).size - 1  # the last one is no object
    return classes_of_rows(rows) if rows in COCO_ROWS else None
