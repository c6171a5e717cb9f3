"""Which objects are missed: by their size, crowding, place at the edge, shape, and the frequency of their class."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as mask_api

from detr_jax.evaluation.pairing import Pairing
from detr_jax.evaluation.protocol import COCO

EDGE = 1.0  # pixels from the border of the image at which an object counts as cut off
CROWDED = (0.1, 0.4)  # IoU with the nearest other object that separates alone, near and overlapped
SLIM = 2.0  # how many times longer than wide
THIRDS = ("rare classes", "middle classes", "frequent classes")


class Group(NamedTuple):
    """Objects that have something in common. ``found`` is at the threshold of each class, ``reached`` without one."""

    kind: str  # size, crowding, edge, shape or frequency
    name: str
    objects: int
    found: int
    reached: int

    @property
    def missed(self) -> int:
        """Objects that are not found at the threshold."""
        return self.objects - self.found


def group_misses(
    pairing: Pairing, found: Bool[np.ndarray, " N"], sizes: Float[np.ndarray, "I 2"], classes: int
) -> list[Group]:
    """Every object is in one group of each kind.

    Args:
      found: which objects are found at the thresholds.
      sizes: (height, width) of each image; not finite where it is not known.
    """
    kinds = {
        "size": _by_size(pairing),
        "crowding": _by_crowding(pairing),
        "edge": _by_edge(pairing, sizes),
        "shape": _by_shape(pairing),
        "frequency": _by_frequency(pairing, classes),
    }
    groups = []
    for kind, (place, names) in kinds.items():
        for number, name in enumerate(names):
            here = place == number
            counts = (int(rows.sum()) for rows in (here, here & found, here & pairing.found))
            groups.append(Group(kind, name, *counts))
    return groups


def _by_size(pairing: Pairing) -> tuple[Int[np.ndarray, " N"], tuple[str, ...]]:
    edges = [COCO.areas[1].high, COCO.areas[3].low]
    return np.digitize(pairing.objects.areas, edges), ("small (under 32x32)", "medium", "large (from 96x96)")


def _by_crowding(pairing: Pairing) -> tuple[Int[np.ndarray, " N"], tuple[str, ...]]:
    nearest, images = np.zeros(len(pairing.objects.images)), pairing.objects.images
    for start, end in zip(*_runs(images), strict=True):
        if end - start > 1:
            boxes = pairing.objects.shapes[start:end]
            table = mask_api.iou(boxes, boxes, [False] * (end - start))
            np.fill_diagonal(table, 0.0)
            nearest[start:end] = table.max(axis=1)
    return np.digitize(nearest, CROWDED), ("alone", "near another (IoU .1)", "overlapped (IoU .4)")


def _runs(values: Int[np.ndarray, " N"]) -> tuple[list[int], list[int]]:
    """Where runs of equal values start and end."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return starts.tolist(), [*starts[1:].tolist(), len(values)][: len(starts)]


def _by_edge(pairing: Pairing, sizes: np.ndarray) -> tuple[Int[np.ndarray, " N"], tuple[str, ...]]:
    x, y, width, height = pairing.objects.shapes.T
    heights, widths = sizes[pairing.objects.images].T
    cut = (x <= EDGE) | (y <= EDGE) | (x + width >= widths - EDGE) | (y + height >= heights - EDGE)
    return cut.astype(int), ("inside the image", "cut off by its edge")


def _by_shape(pairing: Pairing) -> tuple[Int[np.ndarray, " N"], tuple[str, ...]]:
    width, height = np.maximum(pairing.objects.shapes[:, 2:], 1e-9).T
    return np.digitize(width / height, [1 / SLIM, SLIM]), ("tall (over 2:1)", "compact", "wide (over 2:1)")


def _by_frequency(pairing: Pairing, classes: int) -> tuple[Int[np.ndarray, " N"], tuple[str, ...]]:
    counts = np.bincount(pairing.objects.labels, minlength=classes)
    order = np.argsort(counts[counts > 0], kind="stable")
    third = np.zeros(classes, int)
    third[np.flatnonzero(counts)[order]] = np.arange(len(order)) * 3 // max(len(order), 1)
    if len(order) < 3:
        return np.zeros(len(pairing.objects.labels), int), ("all classes",)
    return third[pairing.objects.labels], THIRDS
