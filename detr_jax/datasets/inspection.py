"""Looking at every image and every box before training does: what is broken, and how the classes are spread."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from detr_jax.datasets import coco_stream as coco_columns, folders as coco_folder, decode
from detr_jax.datasets.coco_stream import CocoFile, Defect
from detr_jax.datasets.folders import Source
from detr_jax.datasets.split import Split

AREA_LIMITS = (32**2, 96**2)  # square pixels: COCO's small, medium and large


def of_source(source: Source) -> list[Defect]:
    """Every defect of a split as the user has it: its annotation file, and each image decoded completely.

    ``UserError`` when there is nothing that could be looked at.
    """
    folder = coco_folder.open_source(source)
    coco = folder.coco
    images = _decoded(
        len(folder.paths),
        read=lambda row: folder.paths[row].read_bytes(),
        size=lambda row: tuple(coco.sizes[row].tolist()) if coco.sizes[row].any() else None,
        name=lambda row: f"image {coco.image_ids[row]} ({folder.paths[row]})",
    )
    broken = [image.defect for image in images if image.defect]
    return folder.defects + folder.missing + broken + _degenerate(coco, images, folder.defects)


def of_split(split: Split) -> list[Defect]:
    """Every image of a prepared split that cannot be decoded to the size its boxes refer to."""
    images = _decoded(
        len(split),
        read=lambda row: split[row].image,
        size=lambda row: tuple(split.sizes[row].tolist()),
        name=lambda row: f"image {split.image_ids[row]}",
    )
    return [image.defect for image in images if image.defect]


class _Decoded(NamedTuple):
    size: tuple[int, int]  # (height, width); (0, 0) of what cannot be decoded
    defect: Defect | None


def _degenerate(coco: CocoFile, images: list[_Decoded], defects: list[Defect]) -> list[Defect]:
    if defects:  # there may be boxes that belong to no image
        return []
    whole = np.array([image.defect is None for image in images])
    coco, sizes = coco.of_images(whole), np.array([image.size for image in images])[whole]
    rows = np.flatnonzero(coco_columns.tally(coco, sizes).is_degenerate).tolist()
    kind = "box without area in the image, not trained on"
    return [Defect(kind, coco_columns.describe(coco, row), stops=False) for row in rows]


def _decoded(
    count: int,
    read: Callable[[int], bytes],
    size: Callable[[int], tuple[int, int] | None],
    name: Callable[[int], str],
) -> list[_Decoded]:
    def look(row: int) -> _Decoded:
        try:
            return _Decoded(decode.decode(read(row), size(row)).shape[:2], None)
        except (ValueError, OSError) as error:
            return _Decoded((0, 0), Defect("image that cannot be used", f"{name(row)}: {error}"))

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # decoding leaves the interpreter free
        return list(tqdm(threads.map(look, range(count)), "decoding", count, unit=" images", disable=None))


class Statistics(NamedTuple):
    """How K classes are spread over a split of M images; crowds are counted apart."""

    boxes: Int[np.ndarray, "K 3"]  # of each class: small, medium, large by the area of the annotation
    images: Int[np.ndarray, " K"]  # in how many images a class occurs
    boxes_of_image: Int[np.ndarray, " M"]
    crowds: int


def statistics(split: Split) -> Statistics:
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
