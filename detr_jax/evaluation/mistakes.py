"""Every error by itself: wrong detections from the threshold of their class, and objects that none of these find."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from detr_jax import files
from detr_jax.evaluation.errors import Analysis
from detr_jax.evaluation.tide import TYPES

COLUMNS = ("type", "image_id", "file_name", "detected", "score", "x", "y", "width", "height", "iou", "annotated")
COLUMNS += tuple(f"annotated_{name}" for name in ("x", "y", "width", "height"))


def find_aims(errors: Analysis) -> tuple[Int[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """The object that each detection finds or is compared with, -1 if there is none, and the IoU: for the types Both
    and Bkg the highest with any object."""
    pairing, kinds = errors.pairing, errors.tide.kinds
    nothing = (kinds == TYPES.index("Both")) | (kinds == TYPES.index("Bkg"))
    conditions = [pairing.correct, kinds == TYPES.index("Cls"), nothing]
    either = np.maximum(pairing.own_iou, pairing.other_iou)
    aims = np.select(conditions, [pairing.hits, pairing.other, -1], pairing.own)
    return aims, np.select(conditions, [pairing.hit_iou, pairing.other_iou, either], pairing.own_iou)


def list_mistakes(errors: Analysis) -> Iterator[list]:
    """Rows of COLUMNS, by descending score, then the objects: of the type Miss, or FN where something comes near."""
    pairing, names = errors.pairing, errors.names
    (aims, ious), objects, detections = find_aims(errors), pairing.objects, pairing.detections
    wrong = np.flatnonzero(errors.shown & ~pairing.correct)
    wrong = wrong[np.argsort(-pairing.scores[wrong], kind="stable")]
    boxes, of_objects = detections.shapes[wrong].tolist(), objects.shapes.tolist()
    columns = (errors.tide.kinds, detections.images, detections.labels, pairing.scores, ious, aims)
    columns = [column[wrong].tolist() for column in columns]
    for box, kind, image, label, score, iou, aim in zip(boxes, *columns, strict=True):
        annotated = [names[objects.labels[aim]], *of_objects[aim]] if aim >= 0 else [""] * 5
        where = errors.image_ids[image], errors.file_names[image]
        yield [TYPES[kind], *where, names[label], score, *box, round(iou, 4), *annotated]
    for row in np.flatnonzero(~errors.found).tolist():
        image, kind = objects.images[row], "Miss" if errors.tide.missed[row] else "FN"
        where = errors.image_ids[image], errors.file_names[image]
        yield [kind, *where, *[""] * 7, names[objects.labels[row]], *of_objects[row]]


def write_mistakes(errors: Analysis, path: Path) -> None:
    """Writes mistakes.csv, whole."""
    files.write_csv(path, [COLUMNS, *list_mistakes(errors)])
