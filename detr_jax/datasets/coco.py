"""COCO annotations as dicts: reading a file, its classes, the rule that makes training targets.

A file too large for dicts is read as columns by ``coco_columns``; the rules it shares are written here.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

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
# The 80 classes of COCO detection, in the order of the official file. Eleven of the ids up to 91 were never used.
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
# What COCO panoptic has beside the 80 classes, by the ids of its official file.
COCO_STUFF = Categories(
    ids=(
        92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154,
        155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201),
    ),
    names=tuple(name.strip() for name in _STUFF_NAMES.split(",")),
)  # fmt: skip
WANTED = "give a COCO instances file, an object with images, annotations (with bbox) and categories"


def read(path: str | os.PathLike) -> dict:
    """The whole file as one dict, for evaluation. ``UserError`` when it is missing, not JSON or of another kind."""
    try:
        annotations = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the path of a COCO annotation file") from error
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error}): export or download the file again") from error
    top = annotations.items() if isinstance(annotations, dict) else [(None, annotations)]
    first = {key: value[0] if isinstance(value, list) and value else value for key, value in top}
    refuse_other_kinds(Path(path), first)
    refuse_incomplete(Path(path), first)
    return annotations


def refuse_other_kinds(path: Path, first: dict[str | None, Any]) -> None:
    """``UserError`` when a file is of a known kind, but not ground truth for detection.

    ``first`` maps each top-level key (None for a file that is one array) to its value, of an array the first element.
    """

    def has(key: str | None, *names: str) -> bool:
        return isinstance(first.get(key), dict) and set(names) <= set(first[key])

    kinds = {
        "a list of detections (COCO results)": has(None, "image_id", "score"),
        "a list": None in first,
        "a panoptic annotation file": has("annotations", "segments_info"),
        "a caption file": has("annotations", "caption"),
        "a LabelMe file of one image": "imagePath" in first,
        "a VGG Image Annotator project": any(str(key).startswith("_via") for key in first),
    }
    kind = next((kind for kind, matches in kinds.items() if matches), None)
    if kind:
        raise UserError(f"{path} is {kind}: {WANTED}")


def refuse_incomplete(path: Path, first: dict[str | None, Any]) -> None:
    """``UserError`` when the images, annotations or categories are absent or none; ``first`` as above."""
    missing = [key for key in ("images", "annotations", "categories") if key not in first]
    if missing:
        keys = ", ".join(map(str, first)) or "nothing"
        raise UserError(f"{path} holds {keys} but no {' and no '.join(missing)}: {WANTED}")
    for key in ("images", "annotations", "categories"):
        if first[key] == []:
            raise UserError(f"{path} lists no {key}: export the file again with its {key}")


def categories(annotations: dict) -> Categories:
    """The classes of a COCO dict, sorted by id: any ids, gaps and names. ``UserError`` when an id is used twice."""
    rows = sorted(annotations["categories"], key=lambda row: row["id"])
    table = Categories(tuple(row["id"] for row in rows), tuple(str(row.get("name", row["id"])) for row in rows))
    for one, next_one in zip(table.ids, table.ids[1:], strict=False):
        if one == next_one:
            raise UserError(f"category id {one} is used twice: give each category its own id")
    return table


def category_rows(categories: Categories) -> list[dict]:
    """The ``categories`` of a COCO dict."""
    return [{"id": i, "name": name} for i, name in zip(categories.ids, categories.names, strict=True)]


def training_boxes(
    boxes_xywh_pixels: Float[np.ndarray, "n 4"], sizes: Int[np.ndarray, "#n 2"]
) -> tuple[Float32[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
    """Corners clamped to images of ``sizes`` (height, width), and which boxes have any area left there.

    In float32 from the start, as the original (``ConvertCocoPolysToMask``) does, so that the same boxes remain.
    """
    corners = boxes_xywh_pixels.astype(np.float32)
    corners[:, 2:] += corners[:, :2]
    limits = np.concatenate([sizes[:, ::-1], sizes[:, ::-1]], axis=1).astype(np.float32)
    corners = np.clip(corners, np.float32(0), limits)
    return corners, (corners[:, 2:] > corners[:, :2]).all(axis=1)


def training_targets(
    image: dict, annotations: list[dict], categories: Categories
) -> tuple[Float32[np.ndarray, "n 4"], Int32[np.ndarray, " n"]]:
    """What training sees of one image, by the rule of the original.

    Crowds are dropped, boxes clamped to the image, boxes without area dropped.

    Args:
        image: a COCO image with ``height`` and ``width``.
        annotations: the COCO annotations of this image, in their order.
        categories: the classes of the dataset.

    Returns:
        Corners (x0, y0, x1, y1) in pixels, and contiguous labels.
    """
    single = [annotation for annotation in annotations if not annotation.get("iscrowd")]
    boxes_xywh = np.array([annotation["bbox"] for annotation in single], np.float64).reshape(-1, 4)
    corners, kept = training_boxes(boxes_xywh, np.array([[image["height"], image["width"]]]))
    label_of_id = categories.label_of_id
    labels = np.array([label_of_id[annotation["category_id"]] for annotation in single], np.int32)
    return corners[kept], labels[kept]


def of_images(annotations: dict, sizes_of_image: dict[int, tuple[int, int]]) -> dict:
    """The part of a COCO dict that concerns some images, as it stands, with the sizes filled in where they are missing.

    Args:
        annotations: as ``read`` returns it; not changed.
        sizes_of_image: (height, width) of every image to keep.
    """
    images = [
        {"height": sizes_of_image[image["id"]][0], "width": sizes_of_image[image["id"]][1]} | image
        for image in annotations["images"]
        if image["id"] in sizes_of_image
    ]
    rows = [row for row in annotations["annotations"] if row["image_id"] in sizes_of_image]
    return annotations | {"images": images, "annotations": rows}


def difference(first: Categories, second: Categories) -> list[str]:
    """What two category tables do not share, as "id name" of whichever has it; empty when they agree."""
    a, b = (set(zip(table.ids, table.names, strict=True)) for table in (first, second))
    return [f"{category_id} {name!r}" for category_id, name in sorted(a ^ b)]
