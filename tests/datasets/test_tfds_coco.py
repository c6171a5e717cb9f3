"""The coco/2017 of tfds, read with the ids of COCO."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from detr_jax.datasets import coco
from detr_jax.datasets.split import open_split
from detr_jax.errors import UserError


def write_stock_coco(folder, images, annotations, names=coco.COCO_CATEGORIES.names) -> None:
    """A dataset as tfds' coco.py writes it: boxes relative, labels contiguous, areas whole, any order on disk."""
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(
                {
                    "id": np.int64,
                    "area": np.int64,
                    "bbox": tfds.features.BBoxFeature(),
                    "label": tfds.features.ClassLabel(names=list(names)),
                    "is_crowd": np.bool_,
                }
            ),
        }
    )
    folder.mkdir(parents=True)
    writer = ArrayRecordWriter(str(folder / "coco-validation.array_record-00000-of-00001"), "group_size:1")
    for image in images:
        width, height = image["width"], image["height"]
        data = io.BytesIO()
        Image.new("RGB", (width, height)).save(data, "JPEG")
        objects = [
            {
                "id": row["id"],
                "area": int(row["area"]),
                "bbox": tfds.features.BBox(
                    ymin=row["bbox"][1] / height,
                    xmin=row["bbox"][0] / width,
                    ymax=(row["bbox"][1] + row["bbox"][3]) / height,
                    xmax=(row["bbox"][0] + row["bbox"][2]) / width,
                ),
                "label": names[coco.COCO_CATEGORIES.label_of_id[row["category_id"]]],
                "is_crowd": bool(row["iscrowd"]),
            }
            for row in annotations
            if row["image_id"] == image["id"]
        ]
        example = {"image": data.getvalue(), "image/filename": image["file_name"], "image/id": image["id"]}
        writer.write(features.serialize_example(features.encode_example(example | {"objects": objects})))
    writer.close()
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[
            tfds.core.SplitInfo(
                "validation",
                [len(images)],
                0,
                filename_template=tfds.core.ShardedFileTemplate(
                    data_dir=folder, dataset_name="coco", split="validation", filetype_suffix="array_record"
                ),
            )
        ],
        version=folder.name,
        check_data=False,
    )


IMAGES = [
    {"id": 581929, "file_name": "000000581929.jpg", "height": 427, "width": 640},
    {"id": 139, "file_name": "000000000139.jpg", "height": 480, "width": 333},
    {"id": 885, "file_name": "000000000885.jpg", "height": 33, "width": 47},
]
ANNOTATIONS = [
    {"id": 1, "image_id": 139, "category_id": 90, "bbox": [236.98, 142.51, 24.7, 69.5], "area": 531.8, "iscrowd": 0},
    {"id": 2, "image_id": 139, "category_id": 1, "bbox": [7.03, 167.76, 149.32, 94.87], "area": 13244.6, "iscrowd": 1},
    {"id": 3, "image_id": 581929, "category_id": 13, "bbox": [557.21, 209.19, 81.35, 78.73], "area": 4, "iscrowd": 0},
]


def test_coco_2017_of_tfds_comes_back_with_the_ids_of_coco(tmp_path):
    write_stock_coco(tmp_path / "coco/2017/1.1.0", IMAGES, ANNOTATIONS)
    for _ in range(2):  # the second time from the sidecars that the first one left
        chosen = open_split(tmp_path, "coco/2017", "val")
        assert chosen.categories == coco.COCO_CATEGORIES
        assert chosen.image_ids.tolist() == [139, 885, 581929]
        assert chosen.sizes.tolist() == [[480, 333], [33, 47], [427, 640]]
        assert chosen.target_counts.tolist() == [1, 0, 1]
        record = chosen[0]
        assert (record.image_id, record.file_name, record.labels.tolist()) == (139, "000000000139.jpg", [79])
        np.testing.assert_allclose(record.boxes_xyxy_pixels, [[236.98, 142.51, 261.68, 212.01]], atol=1e-3)
        truth = chosen.ground_truth()
        assert sorted(truth["images"], key=lambda image: -image["id"]) == sorted(IMAGES, key=lambda image: -image["id"])
        whole_areas = [row | {"area": int(row["area"])} for row in ANNOTATIONS]
        assert sorted(truth["annotations"], key=lambda row: row["id"]) == whole_areas


def test_other_classes_than_cocos_are_refused(tmp_path):
    names = ["zeppelin", *coco.COCO_CATEGORIES.names[1:]]
    write_stock_coco(tmp_path / "coco/2017/1.1.0", IMAGES, ANNOTATIONS, names)
    with pytest.raises(UserError, match="not COCO's .zeppelin"):
        open_split(tmp_path, "coco/2017", "validation")
