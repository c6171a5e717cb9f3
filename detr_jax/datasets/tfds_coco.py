"""tfds' own ``coco/2017``: its objects turned back into COCO annotations, and the sidecars it lacks.

tfds prepares it (with TensorFlow, once, ``file_format="array_record"``); reading needs none. Its labels count the 80
classes; COCO's ids are found by name. Boxes come back as in the original to the hundredth of a pixel; areas have lost
their fraction and segmentations are gone, as tfds keeps neither.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from detr_jax import files
from detr_jax.datasets import coco as coco_json, decode, index
from detr_jax.errors import UserError


def annotations(example: dict[str, Any], size: tuple[int, int], id_of_label: list[int]) -> list[dict]:
    """The COCO annotations of one record, whose image has this (height, width)."""
    objects = example["objects"]
    height, width = size
    corners = np.asarray(objects["bbox"], np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]  # tfds stores y0, x0, y1, x1
    boxes_xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    boxes_xywh = (boxes_xywh * [width, height, width, height]).round(2)  # COCO has two decimals: this undoes float32
    return [
        {
            "id": int(objects["id"][i]),
            "image_id": int(example["image/id"]),
            "category_id": id_of_label[int(objects["label"][i])],
            "bbox": box,
            "area": int(objects["area"][i]),
            "iscrowd": int(objects["is_crowd"][i]),
        }
        for i, box in enumerate(boxes_xywh.tolist())
    ]


def id_of_label(features: tfds.features.FeaturesDict) -> list[int]:
    """COCO's category id of each label of tfds. ``UserError`` when the classes are not COCO's."""
    id_of_name = dict(zip(coco_json.COCO_CATEGORIES.names, coco_json.COCO_CATEGORIES.ids, strict=True))
    names = features["objects"]["label"].names
    strange = [name for name in names if name not in id_of_name]
    if strange:
        raise UserError(
            f"it has classes that are not COCO's ({', '.join(strange[:3])}): prepare its COCO files with "
            "python -m detr_jax.dataset prepare"
        )
    return [id_of_name[name] for name in names]


def write_sidecars(builder: tfds.core.DatasetBuilder, split: str, folder: Path) -> None:
    """Reads every record of a split once and leaves the files that ``detr_jax.datasets.prepare`` leaves."""
    records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    ids = id_of_label(builder.info.features)
    images, rows, counts = [], [], []
    for example in tqdm(records, f"indexing {split}", len(records), unit=" images", disable=None):
        height, width = decode.image_size(example["image"])
        name = example["image/filename"].decode()
        images.append({"id": int(example["image/id"]), "file_name": name, "height": height, "width": width})
        own = annotations(example, (height, width), ids)
        counts.append(len(coco_json.training_targets(images[-1], own, coco_json.COCO_CATEGORIES)[1]))
        rows += own

    table = coco_json.category_rows(coco_json.COCO_CATEGORIES)
    with files.replacing(folder / f"annotations_{split}.json") as partial:
        partial.write_text(json.dumps({"images": images, "annotations": rows, "categories": table}))
    with files.replacing(folder / "categories.json") as partial:
        partial.write_text(json.dumps(table))
    image_ids = np.array([image["id"] for image in images], np.int64)
    sizes = np.array([(image["height"], image["width"]) for image in images], np.int32)
    order = np.argsort(image_ids)
    columns = index.Index(image_ids[order], sizes[order], np.array(counts, np.int32)[order], order)
    index.save(folder / f"index_{split}.npz", columns)  # last: where it lies, the others are complete
