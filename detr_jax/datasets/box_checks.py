"""Boxes that can be read but are probably not meant: tiny, beyond the image, given twice, in another convention."""

import numpy as np
from jaxtyping import Bool, Float, Int

from detr_jax.datasets import coco, defects
from detr_jax.datasets.coco_stream import CocoFile, collect, describe_annotation, mark_repeats
from detr_jax.datasets.defects import Defect

MARGIN = 1.0  # pixels that a box may reach beyond its image: tools round
FEW = 3  # boxes from which on their convention is judged
LARGE = 8  # pixels: in an image with a shorter side, boxes within one pixel may be meant


def find_suspicious_boxes(file: CocoFile, sizes: Int[np.ndarray, "M 2"]) -> list[Defect]:
    """What is suspicious about the boxes of a file without defects.

    Args:
      sizes: the true (height, width) of every image; (0, 0) where it is not known, whose boxes are not judged.
    """
    by_id = np.argsort(file.image_ids, kind="stable")
    row = by_id[np.searchsorted(file.image_ids, file.image_id_of, sorter=by_id)] if len(by_id) else file.image_id_of
    limits = sizes[row].reshape(-1, 2)
    known = limits.all(axis=1)
    boxes, single = file.boxes_xywh_pixels, known & ~file.is_crowd
    with np.errstate(over="ignore"):
        _, has_area = coco.clip_boxes(boxes, limits)
    is_tiny = single & has_area & (boxes[:, 2:] < 1).any(axis=1)
    is_beyond = single & has_area & _is_beyond(boxes, limits)
    convention = _find_convention(boxes[single], limits[single])

    def name(index: int) -> str:
        return f"{describe_annotation(file, index)} {boxes[index].tolist()}"

    found = [collect(convention, single, name)] if convention else []
    if convention != defects.FRACTIONS:
        found.append(collect(defects.TINY_BOX, is_tiny, name, stops=False))
    if convention != defects.CORNERS:
        found.append(collect(defects.BEYOND, is_beyond, name, stops=False))
    columns = np.column_stack([file.image_id_of, file.category_id_of, file.is_crowd, boxes.view(np.int64)])
    found += [
        collect(defects.REPEATED_BOX, single & mark_repeats(columns), name, stops=False),
        collect(defects.NO_AREA, single & ~has_area, lambda i: describe_annotation(file, i), stops=False),
    ]
    return [defect for defect in found if defect.count]


def _is_beyond(boxes: Float[np.ndarray, "A 4"], limits: Int[np.ndarray, "A 2"]) -> Bool[np.ndarray, " A"]:
    ends = boxes[:, :2] + boxes[:, 2:]
    return (boxes[:, :2] < -MARGIN).any(axis=1) | (ends > limits[:, ::-1] + MARGIN).any(axis=1)


def _find_convention(boxes: Float[np.ndarray, "A 4"], limits: Int[np.ndarray, "A 2"]) -> str | None:
    """The kind of defect if all boxes look as if they were written in another convention than COCO's."""
    if len(boxes) < FEW:
        return None
    if (limits.min(axis=1) >= LARGE).all() and (boxes >= 0).all() and (boxes <= 1).all():
        return defects.FRACTIONS
    fits = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= limits[:, ::-1] + MARGIN).all(axis=1)
    if fits.all() and _is_beyond(boxes, limits).mean() > 0.25:
        return defects.CORNERS
    return None
