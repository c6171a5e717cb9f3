"""Annotated images of any format as COCO instances dictionaries: the one way from other formats to COCO."""

from collections.abc import Sequence
from typing import NamedTuple

from detr_jax.datasets.defects import Defect

DECIMALS = 9  # of a pixel: beyond them is what float64 adds when a box is computed
SPLIT_ORDER = ("train", "val", "test")


class AnnotatedObject(NamedTuple):
    """One object of an image."""

    name: str  # of its class
    box_xywh_pixels: list[int | float]
    source: str  # where it was read, for messages: "labels/a.txt, line 3"
    fields: dict = {}  # further ones of its COCO annotation: iscrowd, segmentation, truncated


class AnnotatedImage(NamedTuple):
    """One image and what it shows."""

    file_name: str  # below the root
    size: tuple[int, int] | None  # (height, width), if it is known
    objects: list[AnnotatedObject]


class Reading(NamedTuple):
    """What a reader made of a folder."""

    images: dict[str, list[AnnotatedImage]]  # by split
    names: Sequence[str]  # of the classes, in the order of their ids
    first_id: int
    defects: dict[str, list[Defect]]  # by split
    notes: list[str]


def to_instances(reading: Reading) -> dict[str, dict]:
    """A COCO instances dictionary for each split. Ids of images and annotations count through all splits, from 1."""
    id_of_name = {name: reading.first_id + number for number, name in enumerate(reading.names)}
    categories = [{"id": category_id, "name": name} for name, category_id in id_of_name.items()]
    splits, image_id, annotation_id = {}, 0, 0
    for split in sorted(reading.images, key=SPLIT_ORDER.index):
        images, annotations = [], []
        for image in reading.images[split]:
            image_id += 1
            size = {"height": image.size[0], "width": image.size[1]} if image.size else {}
            images.append({"id": image_id, "file_name": image.file_name} | size)
            for one in image.objects:
                annotation_id += 1
                box = one.box_xywh_pixels
                row = {
                    "id": annotation_id,
                    "image_id": image_id,
                    "category_id": id_of_name[one.name],
                    "bbox": box,
                    "area": max(box[2], 0) * max(box[3], 0),
                    "iscrowd": 0,
                    "source": one.source,
                }
                annotations.append(row | one.fields)
        splits[split] = {"images": images, "annotations": annotations, "categories": categories}
    return splits


def rounded(number: int | float) -> int | float:
    """A number of pixels without the last digits of float64, as an integer if it is one."""
    number = round(number, DECIMALS)
    return int(number) if number == int(number) else number
