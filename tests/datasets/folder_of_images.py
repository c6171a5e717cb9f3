"""Writes small COCO folders: what the tests of folders and of preparing share."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from detr_jax.datasets.folders import SplitFolder


def make_image(width=60, height=40, image_format="JPEG", rotation=None) -> bytes:
    image = Image.fromarray(np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8))
    exif = Image.Exif()
    if rotation:
        exif[0x0112] = rotation
    data = io.BytesIO()
    image.save(data, image_format, exif=exif)
    return data.getvalue()


def ground_truth() -> dict:
    """Three images in no order, one of them empty; ids with gaps; a crowd; a box without area; polygons."""
    return {
        "images": [
            {"id": 30, "file_name": "c.jpg", "height": 40, "width": 60},
            {"id": 10, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 20, "file_name": "sub/ü.jpg", "height": 40, "width": 60},
        ],
        "annotations": [
            {"id": 8, "image_id": 30, "category_id": 12, "bbox": [1.123456789012345, 2.2, 10.3, 20.4], "iscrowd": 0},
            {"id": 9, "image_id": 10, "category_id": 3, "bbox": [0, 0, 5, 5], "segmentation": [[0, 0, 5, 0, 5, 5.01]]},
            {"id": 7, "image_id": 30, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1, "area": 81},
            {"id": 6, "image_id": 30, "category_id": 3, "bbox": [70, 0, 9, 9], "iscrowd": 0, "area": 81},
        ],
        "categories": [{"id": 12, "name": "tri"}, {"id": 3, "name": "circle"}],
    }


def write_folder(root: Path, content: dict, files: dict[str, bytes] | None = None) -> SplitFolder:
    if files is None:
        files = {"c.jpg": make_image(), "a.png": make_image(image_format="PNG"), "sub/ü.jpg": make_image()}
    for name, data in files.items():
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(data)
    (root / "instances.json").write_text(json.dumps(content))
    return SplitFolder(root / "images", root / "instances.json")
