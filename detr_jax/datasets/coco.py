"""COCO annotations as dicts: reading a file, its classes, and the rule that makes training targets.

A file too large for dicts is read as columns by ``coco_stream``, which shares the rules of this module.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from detr_jax.datasets.annotation_file import ENTRIES, read_entries
from detr_jax.datasets.defects import Culprits, refuse_defects
from detr_jax.datasets.normalise import fill
from detr_jax.errors import UserError
from detr_jax.structures import Categories

_COCO_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote,
keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear,
hair drier, toothbrush"""
# The 80 classes of COCO detection, in the order of the official file. Some of the ids up to 90 are not used.
COCO_CATEGORIES = Categories(
    ids=tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)),
    names=tuple(name.strip() for name in _COCO_NAMES.split(",")),
)
_STUFF_NAMES = """
banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, gravel, house, light,
mirror-stuff, net, pillow, platform, playingfield, railroad, river, road, roof, sand, sea, shelf, snow, stairs, tent,
towel, wall-brick, wall-stone, wall-tile, wall-wood, water-other, window-blind, window-other, tree-merged, fence-merged,
ceiling-merged, sky-other-merged, cabinet-merged, table-merged, floor-other-merged, pavement-merged, mountain-merged,
grass-merged, dirt-merged, paper-merged, food-other-merged, building-other-merged, rock-merged, wall-other-merged,
rug-merged"""
# What COCO panoptic has besides the 80 classes, with the ids of its official file.
COCO_STUFF = Categories(
    ids=(
        92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154,
        155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201),
    ),
    names=tuple(name.strip() for name in _STUFF_NAMES.split(",")),
)  # fmt: skip


def read_annotations(path: str | os.PathLike) -> dict:
    """The whole file as one dict, its entries in the one form of ``normalise`` and with their optional fields.

    Images whose size the file does not state have neither height nor width. Raises UserError when the file is missing,
    not JSON, or JSON of another kind, and when an entry cannot be understood.
    """
    path, culprits = Path(path), Culprits()
    annotations: dict = {key: [] for key in ENTRIES}
    for entry in read_entries(path, culprits):
        if entry.number is None:
            annotations[entry.key] = entry.value
        else:
            annotations.setdefault(entry.key, []).append(fill(entry.key, entry.value))
    refuse_defects({"": culprits.defects()}, {"": path})
    read_categories(path, annotations["categories"])
    return annotations


def categories(rows: Sequence[Mapping]) -> Categories:
    """The classes of the ``categories`` of a COCO file, sorted by id: any ids, gaps and names.

    Raises UserError when an id is used twice.
    """
    table = Categories.from_rows(rows)
    for one, next_one in zip(table.ids, table.ids[1:], strict=False):
        if one == next_one:
            raise UserError(f"category id {one} is used twice: give each category its own id")
    return table


def read_categories(path: Path, rows: Sequence[Mapping]) -> Categories:
    """``categories`` of a file, which the message names."""
    try:
        return categories(rows)
    except UserError as error:
        raise UserError(f"{path}: bad categories: {error}") from error


def clip_boxes(
    boxes_xywh_pixels: Float[np.ndarray, "n 4"], sizes: Int[np.ndarray, "#n 2"]
) -> tuple[Float32[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
    """Corners clipped to images of ``sizes`` (height, width), and which boxes have any area left.

    Computes in float32, as the original (``ConvertCocoPolysToMask``) does, so that the same boxes remain.
    """
    corners = boxes_xywh_pixels.astype(np.float32)
    corners[:, 2:] += corners[:, :2]
    limits = np.concatenate([sizes[:, ::-1], sizes[:, ::-1]], axis=1).astype(np.float32)
    corners = np.clip(corners, np.float32(0), limits)
    return corners, (corners[:, 2:] > corners[:, :2]).all(axis=1)


def make_targets(
    image: dict, annotations: list[dict], categories: Categories
) -> tuple[Float32[np.ndarray, "n 4"], Int32[np.ndarray, " n"]]:
    """The training targets of one image, by the rule of the original.

    Crowds are left out, boxes are clipped to the image, and boxes without area are left out.

    Args:
      image: a COCO image with ``height`` and ``width``.
      annotations: the COCO annotations of this image, in their order.
      categories: the classes of the dataset.

    Returns:
      Corners (x0, y0, x1, y1) in pixels, and contiguous labels.
    """
    single = [annotation for annotation in annotations if not annotation.get("iscrowd")]
    boxes_xywh = np.array([annotation["bbox"] for annotation in single], np.float64).reshape(-1, 4)
    corners, kept = clip_boxes(boxes_xywh, np.array([[image["height"], image["width"]]]))
    label_of_id = categories.label_of_id
    labels = np.array([label_of_id[annotation["category_id"]] for annotation in single], np.int32)
    return corners[kept], labels[kept]


def select_images(annotations: dict, sizes: Mapping[int, tuple[int, int]]) -> dict:
    """The part of a COCO dict that concerns some images, with the sizes that their boxes refer to.

    Args:
      annotations: as ``read_annotations`` returns it; not changed.
      sizes: (height, width) by the id of every image to keep.
    """
    images = [
        image | {"height": sizes[image["id"]][0], "width": sizes[image["id"]][1]}
        for image in annotations["images"]
        if image["id"] in sizes
    ]
    rows = [row for row in annotations["annotations"] if row["image_id"] in sizes]
    return annotations | {"images": images, "annotations": rows}


def compare_categories(first: Categories, second: Categories) -> list[str]:
    """Where two class tables contradict each other, as "id name"; empty when they can be one table.

    One may have classes that the other lacks. An id must not have two names, nor may a name that both have belong to
    other ids.
    """
    a, b = (dict(zip(table.ids, table.names, strict=True)) for table in (first, second))
    differing = {row for row in a.items() ^ b.items() if row[0] in a and row[0] in b}
    for name in set(a.values()) & set(b.values()):
        ids = [{category_id for category_id, other in table.items() if other == name} for table in (a, b)]
        differing |= {(category_id, name) for category_id in ids[0] ^ ids[1]}
    return [f"{category_id} {name!r}" for category_id, name in sorted(differing)]


def merge_categories(tables: Sequence[Categories]) -> Categories:
    """The classes of all tables, which must not contradict each other."""
    rows = {row["id"]: row for table in tables for row in table.to_rows()}
    return Categories.from_rows(list(rows.values()))
