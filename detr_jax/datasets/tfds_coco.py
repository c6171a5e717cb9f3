"""The ``coco/2017`` of tfds: its objects turned back into COCO annotations, and the sidecars it lacks.

tfds prepares it once, with TensorFlow and ``file_format="array_record"``; it is read without. Its labels count the 80
classes; COCO's ids are found by name. Boxes equal the original to the hundredth of a pixel. tfds keeps no segmentations
and no fractions of areas.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from detr_jax import files
from detr_jax.datasets import coco
from detr_jax.datasets.index import Index, save_index
from detr_jax.errors import UserError
from detr_jax.images.decoding import probe


def make_annotations(example: dict[str, Any], size: tuple[int, int], id_of_label: list[int]) -> list[dict]:
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


def map_labels_to_ids(features: tfds.features.FeaturesDict) -> list[int]:
    """COCO's category id of each label of tfds. Raises UserError when the classes are not COCO's."""
    id_of_name = dict(zip(coco.COCO_CATEGORIES.names, coco.COCO_CATEGORIES.ids, strict=True))
    names = features["objects"]["label"].names
    strange = [name for name in names if name not in id_of_name]
    if strange:
        raise UserError(
            f"it has classes that are not COCO's ({', '.join(strange[:3])}): prepare its COCO files with "
            "python -m detr_jax.dataset prepare"
        )
    return [id_of_name[name] for name in names]


def write_sidecars(builder: tfds.core.DatasetBuilder, split: str, folder: Path) -> None:
    """Reads every record of a split once and writes the files that ``prepare.py`` writes beside its records."""
    records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    ids = map_labels_to_ids(builder.info.features)
    images, rows, counts = [], [], []
    for example in tqdm(records, f"indexing {split}", len(records), unit=" images", disable=None):
        height, width = probe(example["image"]).stored_size  # COCO's boxes refer to it
        name = example["image/filename"].decode()
        images.append({"id": int(example["image/id"]), "file_name": name, "height": height, "width": width})
        own = make_annotations(example, (height, width), ids)
        counts.append(len(coco.make_targets(images[-1], own, coco.COCO_CATEGORIES)[1]))
        rows += own

    table = coco.COCO_CATEGORIES.to_rows()
    with files.replacing(folder / f"annotations_{split}.json") as partial:
        partial.write_text(json.dumps({"images": images, "annotations": rows, "categories": table}), encoding="utf-8")
    with files.replacing(folder / "categories.json") as partial:
        partial.write_text(json.dumps(table), encoding="utf-8")
    image_ids = np.array([image["id"] for image in images], np.int64)
    sizes = np.array([(image["height"], image["width"]) for image in images], np.int32)
    order = np.argsort(image_ids)
    index = Index(image_ids[order], sizes[order], np.array(counts, np.int32)[order], order)
    save_index(folder / f"index_{split}.npz", index)  # last: where it is, the other files are complete
