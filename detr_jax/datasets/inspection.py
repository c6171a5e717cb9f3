"""Looking at every image and every box before training does: what is broken, and how the classes are spread."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from detr_jax.datasets import coco_stream, defects
from detr_jax.datasets.coco_stream import CocoFile
from detr_jax.datasets.defects import Culprits, Defect
from detr_jax.datasets.examination import (
    Examination,
    Look,
    Sightings,
    describe_rare_classes,
    in_order,
    look,
    look_at_folder,
)
from detr_jax.datasets.folders import SplitFolder, find_unlisted, open_folder
from detr_jax.datasets.split import Record, Split
from detr_jax.errors import UserError
from detr_jax.structures import Categories

AREA_LIMITS = (32**2, 96**2)  # square pixels: COCO's small, medium and large


class Inspection(NamedTuple):
    """What was looked at in one split, and what is wrong with it."""

    images: int
    categories: Categories
    boxes: Int[np.ndarray, " K"]  # of each class, those that are trained on
    defects: list[Defect]
    notes: list[str] = []  # what is worth knowing and no defect


def inspect_folder(
    folder: SplitFolder, split: str = "train", sightings: Sightings | None = None, quick: bool = False
) -> Inspection:
    """Checks a split before it is prepared: its annotation file, and each image, which is decoded completely.

    Args:
      split: what the split is called.
      sightings: the images of the splits that were inspected before; those of this one are added.
      quick: look at the header of each image only.

    Raises UserError when there is nothing that could be looked at.
    """
    opened = open_folder(folder)
    examination = Examination(split, opened.file, opened.paths, sightings or Sightings())
    for seen in tqdm(look_at_folder(opened, quick), "decoding", len(opened.paths), unit=" images", disable=None):
        examination.add(seen)
    file, used = opened.file, ~opened.file.is_crowd
    if opened.is_sound:  # else there may be boxes that belong to no image
        usable = examination.is_usable
        file = file.select_images(usable)
        used = coco_stream.tally(file, examination.sizes[usable]).is_target
    labels = np.searchsorted(file.categories.ids, file.category_id_of[used & _is_listed(file)])
    boxes = np.bincount(labels, minlength=len(file.categories.ids))
    return Inspection(
        images=len(opened.paths) + sum(defect.count for defect in opened.missing),
        categories=file.categories,
        boxes=boxes,
        defects=opened.defects + opened.missing + examination.defects(opened.is_sound),
        notes=describe_rare_classes(file.categories.names, boxes) + find_unlisted({split: opened}),
    )


class StoredImage(NamedTuple):
    """The image file of a record."""

    split: Split
    row: int

    def read_bytes(self) -> bytes:
        """Raises UserError when the record is damaged."""
        return self.split[self.row].image


def inspect_split(split: Split, sightings: Sightings | None = None, quick: bool = False) -> Inspection:
    """Checks a prepared split like the folder that it was made of, and whether every record is its image's.

    Args:
      sightings: the images of the splits that were inspected before; those of this one are added.
      quick: look at the header of each image only.

    Raises UserError when its annotations are damaged.
    """
    file = coco_stream.scan(split.annotations_path)
    file = file.select_images(np.isin(file.image_ids, split.image_ids))
    places = np.argsort(file.image_ids)  # of the images of the split in the file
    sources = [StoredImage(split, row) for row in np.argsort(places).tolist()]
    examination = Examination(split.name, file, sources, sightings or Sightings())
    boxes, culprits = np.zeros(len(split.categories.ids), int), Culprits()

    def look_at(row: int) -> tuple[Record, Look] | str:
        try:
            record = split[row]
        except UserError as error:
            return str(error)
        return record, look(int(places[row]), record.image, tuple(split.sizes[row].tolist()), quick)

    looks = in_order(look_at, range(len(split)))
    for found in tqdm(looks, "decoding", len(split), unit=" images", disable=None):
        if isinstance(found, str):
            culprits.add(defects.DAMAGED, found)
            continue
        record, seen = found
        boxes += np.bincount(record.labels, minlength=len(boxes))
        examination.add(seen)
    notes = describe_rare_classes(split.categories.names, boxes)
    found = culprits.defects() + coco_stream.find_defects(file) + examination.defects()
    return Inspection(len(split), split.categories, boxes, found, notes)


def _is_listed(file: CocoFile) -> np.ndarray:
    return np.isin(file.category_id_of, file.categories.ids)


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
    sizes = np.digitize([row["area"] for row in single], AREA_LIMITS)
    boxes = np.zeros((len(label_of_id), 3), int)
    np.add.at(boxes, (labels, sizes), 1)
    occurrences = np.unique(np.stack([labels, rows], axis=1), axis=0)
    return Statistics(
        boxes=boxes,
        images=np.bincount(occurrences[:, 0], minlength=len(label_of_id)),
        boxes_of_image=np.bincount(rows, minlength=len(split)),
        crowds=len(annotations) - len(single),
    )
