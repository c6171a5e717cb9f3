"""Looking at every image and every box before training does: what is broken, and how the classes are spread."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from detr_jax.datasets import coco_stream
from detr_jax.datasets.coco_stream import CocoFile, Defect
from detr_jax.datasets.folders import SplitFolder, open_folder
from detr_jax.datasets.split import Split
from detr_jax.images import decode
from detr_jax.structures import Categories

AREA_LIMITS = (32**2, 96**2)  # square pixels: COCO's small, medium and large


class Inspection(NamedTuple):
    """What was looked at in one split, and what is wrong with it."""

    images: int
    categories: Categories
    boxes: Int[np.ndarray, " K"]  # of each class, those that are trained on
    defects: list[Defect]


def inspect_folder(folder: SplitFolder) -> Inspection:
    """Checks a split before it is prepared: its annotation file, and each image, which is decoded completely.

    Raises UserError when there is nothing that could be looked at.
    """
    file, paths, defects, missing = open_folder(folder)
    looks = _look_at_all(
        len(paths),
        read=lambda row: (paths[row].read_bytes(), None),
        size=lambda row: tuple(file.sizes[row].tolist()) if file.sizes[row].any() else None,
        name=lambda row: f"image {file.image_ids[row]} ({paths[row]})",
    )
    broken = [look.defect for look in looks if look.defect]
    used, degenerate = ~file.is_crowd, []
    if not defects:  # else there may be boxes that belong to no image
        whole = np.array([look.defect is None for look in looks], bool)
        file, sizes = file.select_images(whole), np.array([look.size for look in looks], int).reshape(-1, 2)[whole]
        used, degenerate = _divide(file, sizes)
    labels = np.searchsorted(file.categories.ids, file.category_id_of[used & _is_listed(file)])
    return Inspection(
        images=len(paths) + len(missing),
        categories=file.categories,
        boxes=np.bincount(labels, minlength=len(file.categories.ids)),
        defects=defects + missing + broken + degenerate,
    )


def inspect_split(split: Split) -> Inspection:
    """Checks a prepared split: whether every image decodes to the size that its boxes refer to."""

    def read(row: int) -> tuple[bytes, Any]:
        record = split[row]
        return record.image, np.bincount(record.labels, minlength=len(split.categories.ids))

    looks = _look_at_all(
        len(split),
        read=read,
        size=lambda row: tuple(split.sizes[row].tolist()),
        name=lambda row: f"image {split.image_ids[row]}",
    )
    boxes = sum((look.extra for look in looks if look.extra is not None), np.zeros(len(split.categories.ids), int))
    return Inspection(len(split), split.categories, boxes, [look.defect for look in looks if look.defect])


def _divide(file: CocoFile, sizes: Int[np.ndarray, "M 2"]) -> tuple[np.ndarray, list[Defect]]:
    """Which annotations are trained on [A], and the boxes without area as defects."""
    found = coco_stream.tally(file, sizes)
    kind, rows = "box without area in the image, not trained on", np.flatnonzero(found.is_degenerate).tolist()
    return found.is_target, [Defect(kind, coco_stream.describe_annotation(file, row), stops=False) for row in rows]


def _is_listed(file: CocoFile) -> np.ndarray:
    return np.isin(file.category_id_of, file.categories.ids)


class _Look(NamedTuple):
    """What was found of one image."""

    size: tuple[int, int]  # (height, width); (0, 0) of an image that cannot be decoded
    defect: Defect | None
    extra: Any  # what ``read`` gives besides the bytes; None where it fails


def _look_at_all(
    count: int,
    read: Callable[[int], tuple[bytes, Any]],
    size: Callable[[int], tuple[int, int] | None],
    name: Callable[[int], str],
) -> list[_Look]:
    """Decodes every image, in as many threads as there are processors."""

    def look(row: int) -> _Look:
        extra = None
        try:
            image, extra = read(row)
            return _Look(decode(image, size(row)).shape[:2], None, extra)
        except (ValueError, OSError) as error:
            return _Look((0, 0), Defect("image that cannot be used", f"{name(row)}: {error}"), extra)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # decoding releases the interpreter lock
        return list(tqdm(threads.map(look, range(count)), "decoding", count, unit=" images", disable=None))


class Statistics(NamedTuple):
    """How K classes are spread over a split of M images. Crowds are not among the boxes."""

    boxes: Int[np.ndarray, "K 3"]  # of each class: small, medium, large by the area of the annotation
    images: Int[np.ndarray, " K"]  # that show a class
    boxes_of_image: Int[np.ndarray, " M"]
    crowds: int


def count_objects(split: Split) -> Statistics:
    """Counts the ground truth of a split."""
    annotations = split.ground_truth()["annotations"]
    single = [row for row in annotations if not row.get("iscrowd")]
    label_of_id, row_of_image = split.categories.label_of_id, {i: row for row, i in enumerate(split.image_ids.tolist())}
    labels = np.array([label_of_id[row["category_id"]] for row in single], int)
    rows = np.array([row_of_image[row["image_id"]] for row in single], int)
    areas = [row.get("area", row["bbox"][2] * row["bbox"][3]) for row in single]
    sizes = np.digitize(areas, AREA_LIMITS)
    boxes = np.zeros((len(label_of_id), 3), int)
    np.add.at(boxes, (labels, sizes), 1)
    occurrences = np.unique(np.stack([labels, rows], axis=1), axis=0)
    return Statistics(
        boxes=boxes,
        images=np.bincount(occurrences[:, 0], minlength=len(label_of_id)),
        boxes_of_image=np.bincount(rows, minlength=len(split)),
        crowds=len(annotations) - len(single),
    )
