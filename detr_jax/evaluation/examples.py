"""Which images show the errors best, and the boxes on them as rows of whole numbers."""

from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from detr_jax.evaluation.average_precision import best_of_groups
from detr_jax.evaluation.confusion import list_cells
from detr_jax.evaluation.errors import Analysis
from detr_jax.evaluation.mistakes import find_aims
from detr_jax.evaluation.tide import TYPES

MOST_BOXES = 100_000  # in one page, 4 MB as text; an image counts as one more
MOST_FAINT = 20  # detections of one image below the threshold of their class
OF_A_CELL = 3  # examples of a cell of the confusion matrix
DETECTION = ("x", "y", "width", "height", "label", "score", "type", "takes", "aims", "iou")
OBJECT = ("x", "y", "width", "height", "label", "state")
NOTHING_NEAR, NOT_FOUND, FOUND = range(3)  # states of an object


class Example(NamedTuple):
    """An image of the page. Boxes are flat lists, rows of DETECTION and OBJECT one after the other: corners and sizes
    in tenths of a pixel, scores in ten-thousandths, IoU in hundredths; objects are named by their place in this image.
    """

    image: int  # rank
    objects: list[int]
    detections: list[int]  # those that reach their threshold, then fainter ones, each by descending score
    shown: int  # how many reach it


def rank_examples(errors: Analysis) -> list[int]:
    """Every image once: by turns the next of the worst images, of the doubtful annotations, of each type of error, of
    each cell of the confusion matrix and of the missed objects; then images without errors."""
    pairing, tide = errors.pairing, errors.tide
    best = np.argsort(-pairing.scores, kind="stable")
    best = best[errors.shown[best]]
    lists = [
        [row.image for row in errors.images],
        [suspect.image for suspect in errors.suspects],
        _images_of_cells(errors),
        pairing.objects.images[tide.missed].tolist(),
        pairing.objects.images[~errors.found].tolist(),
        *(pairing.detections.images[best[tide.kinds[best] == kind]].tolist() for kind in range(len(TYPES))),
    ]
    ranked: dict[int, None] = {}
    for turn in zip_longest(*(dict.fromkeys(images) for images in lists)):
        ranked |= dict.fromkeys(image for image in turn if image is not None)
    return list(ranked | dict.fromkeys(range(len(errors.image_ids))))


def _images_of_cells(errors: Analysis) -> list[int]:
    """The first example of each cell off the diagonal, then the second, and so on."""
    classes = len(errors.names)
    cells = list_cells(errors.pairing, classes, errors.shown)
    wrong = np.flatnonzero(cells.rows != cells.columns)
    groups = (cells.rows * (classes + 1) + cells.columns)[wrong]
    chosen, ranks = best_of_groups(groups, cells.scores[wrong], OF_A_CELL)
    return cells.images[wrong[chosen[np.argsort(ranks, kind="stable")]]].tolist()


def list_examples(errors: Analysis, ranked: list[int], most_boxes: int = MOST_BOXES) -> list[Example]:
    """The first of the ranked images, as many as have no more boxes than allowed; then, as there is room, detections
    below the threshold of their class."""
    pairing, images = errors.pairing, np.arange(len(errors.image_ids) + 1)
    objects, detections = _object_rows(errors), _detection_rows(errors)
    of_objects, of_detections = (
        np.searchsorted(kind.images, images).tolist() for kind in (pairing.objects, pairing.detections)
    )
    chosen, left = [], most_boxes
    for image in ranked:
        rows = np.arange(of_detections[image], of_detections[image + 1])
        here = slice(of_objects[image], of_objects[image + 1])
        shown = rows[errors.shown[rows]]
        left -= 1 + len(shown) + here.stop - here.start
        if left < 0:
            break
        chosen.append((image, here, shown, rows[~errors.shown[rows]][:MOST_FAINT]))
    examples = []
    for image, here, shown, faint in chosen:
        faint = faint[: max(left, 0)]
        left -= len(faint)
        listed = detections[np.concatenate([shown, faint])]
        examples.append(Example(image, objects[here].ravel().tolist(), listed.ravel().tolist(), len(shown)))
    return examples


def _object_rows(errors: Analysis) -> Int[np.ndarray, "N 6"]:
    objects = errors.pairing.objects
    state = np.select([errors.found, errors.tide.missed], [FOUND, NOTHING_NEAR], NOT_FOUND)
    return np.column_stack([_tenths(objects.shapes), objects.labels, state])


def _detection_rows(errors: Analysis) -> Int[np.ndarray, "M 10"]:
    pairing, (aims, iou) = errors.pairing, find_aims(errors)
    first = np.searchsorted(pairing.objects.images, pairing.detections.images)
    takes, aims = (np.where(rows >= 0, rows - first, -1) for rows in (pairing.first_come, aims))
    scores, overlaps = ((values * unit).round().astype(int) for values, unit in ((pairing.scores, 1e4), (iou, 100)))
    boxes, labels = _tenths(pairing.detections.shapes), pairing.detections.labels
    return np.column_stack([boxes, labels, scores, errors.tide.kinds, takes, aims, overlaps])


def _tenths(boxes: np.ndarray) -> Int[np.ndarray, "N 4"]:
    return np.clip(boxes * 10, -1e9, 1e9).round().astype(int)
