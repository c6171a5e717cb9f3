"""Detections as annotations, for people who correct them in a labelling tool instead of drawing every box."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from detr_jax.datasets.coco import clip_boxes
from detr_jax.datasets.conversion import convert_folder
from detr_jax.datasets.folders import SplitFolder
from detr_jax.errors import UserError
from detr_jax.structures import Categories, Detections

SPLIT = "train"
DECIMALS = 2  # of a pixel


class Prelabels:
    """The annotations of M images as one COCO instances dictionary, filled image by image in any order.

    Args:
      paths: of the images. Their file names are what follows the folder that all of them are in.
      ids: of the images, all different.
      sizes: [M 2], (height, width) of the images upright, in pixels.
      categories: the classes; all of them are written, whether they were found or not.

    Raises UserError for a file whose name no annotation file can hold.
    """

    def __init__(self, paths: list[Path], ids: list[int], sizes: Iterable[tuple[int, int]], categories: Categories):
        self.root = Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
        self._categories, self._rows = categories, {}
        self._images = [
            {"id": i, "file_name": os.path.relpath(path, self.root), "height": int(size[0]), "width": int(size[1])}
            for path, i, size in zip(paths, ids, sizes, strict=True)
        ]
        for image in self._images:
            if not image["file_name"].isprintable():
                name = repr(image["file_name"])
                raise UserError(f"{name} is a name that annotations cannot hold: rename it, or leave out --format")

    def add(self, row: int, detections: Detections) -> None:
        """What was found in an image. Boxes are clipped to it, rounded to hundredths of a pixel, and kept with their
        scores if any area is left.
        """
        image = self._images[row]
        found = detections.to_coco(image["id"])
        boxes = np.array([one["bbox"] for one in found]).reshape(-1, 4)
        corners, _ = clip_boxes(boxes, np.array([[image["height"], image["width"]]]))
        x0, y0, x1, y1 = corners.astype(np.float64).round(DECIMALS).T
        sides = np.stack([x0, y0, x1 - x0, y1 - y0], axis=1).round(DECIMALS)
        self._rows[row] = [
            one
            | {"bbox": side.tolist(), "area": round(float(side[2] * side[3]), 2 * DECIMALS)}
            | {"iscrowd": 0, "segmentation": []}
            for one, side in zip(found, sides, strict=True)
            if side[2:].min() > 0
        ]

    def to_instances(self) -> dict:
        """The dictionary; annotations are counted from 1 in the order of the images."""
        rows = [one for _, rows in sorted(self._rows.items()) for one in rows]
        annotations = [{"id": number} | row for number, row in enumerate(rows, start=1)]
        return {"images": self._images, "annotations": annotations, "categories": self._categories.to_rows()}

    def write(self, to: str, output: Path, images: str = "link") -> list[str]:
        """Writes a new folder that ``dataset`` reads; see ``convert_folder``, also for what is raised and returned."""
        with tempfile.TemporaryDirectory(prefix="detr_jax_") as scratch:
            path = Path(scratch) / "instances.json"
            path.write_text(json.dumps(self.to_instances()), encoding="utf-8")
            return convert_folder({SPLIT: SplitFolder(self.root, path, allow_outside=True)}, to, output, images)
