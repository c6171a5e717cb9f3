"""Reading prepared datasets: ours and tfds' own coco/2017."""

import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from detr_jax.datasets import prepare as builder, folders as coco_folder, coco as coco_json, shapes, split
from detr_jax.errors import UserError

SETTINGS = shapes.Settings(train=12, val=5, size=48)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("split")
    shapes.write(root / "raw", SETTINGS)
    shapes.prepare(root / "data", "shapes", SETTINGS)
    return root


def test_records_are_the_files_and_their_targets(prepared):
    chosen = split.open_split(prepared / "data", "shapes", "train")
    original = json.loads((prepared / "raw/annotations/instances_train2017.json").read_text())
    assert len(chosen) == 12 and chosen.image_ids.tolist() == list(range(1, 13))
    assert chosen.categories.ids == (3, 7, 12)
    for row, image in enumerate(original["images"]):
        record = chosen[row]
        assert record.image == (prepared / "raw/train2017" / image["file_name"]).read_bytes()
        assert (record.image_id, record.file_name) == (image["id"], image["file_name"])
        own = [entry for entry in original["annotations"] if entry["image_id"] == image["id"]]
        x, y, w, h = np.array([entry["bbox"] for entry in own]).reshape(-1, 4).T
        np.testing.assert_allclose(record.boxes_xyxy_pixels, np.stack([x, y, x + w, y + h], 1), atol=1e-4)
        assert [chosen.categories.ids[label] for label in record.labels] == [entry["category_id"] for entry in own]
        assert chosen.target_counts[row] == len(own)


def test_ground_truth_is_the_original_file(prepared):
    original = json.loads((prepared / "raw/annotations/instances_val2017.json").read_text())
    truth = split.open_split(prepared / "data", "shapes", "val").ground_truth()
    assert {key: truth[key] for key in original} == original


def test_a_slice_holds_its_images_only(prepared):
    part = split.open_split(prepared / "data", "shapes", "train[3:5]")
    whole = split.open_split(prepared / "data", "shapes", "train")
    assert part.image_ids.tolist() == [4, 5]
    assert part[1].image == whole[4].image
    truth = part.ground_truth()
    assert {image["id"] for image in truth["images"]} == {4, 5}
    assert len(truth["annotations"]) == part.target_counts.sum()


def test_a_split_travels_to_processes_and_serves_threads(prepared):
    chosen = split.open_split(prepared / "data", "shapes", "train[2:]")
    again = pickle.loads(pickle.dumps(chosen))
    with ThreadPoolExecutor(4) as threads:
        images = list(threads.map(lambda row: again[row].image, list(range(10)) * 5))
    assert images == [chosen[row].image for row in range(10)] * 5


@pytest.mark.parametrize(
    ("name", "part", "sentence"),
    [
        ("nope", "train", "no prepared dataset 'nope' in .*there is shapes.*dataset prepare --name=nope"),
        ("shapes", "test", "no split 'test'.*choose from train, val"),
        ("shapes", "train[", "write it like train"),
        ("shapes", "train[50:]", "is empty: it has 12 images"),
    ],
)
def test_what_does_not_exist_is_named(prepared, name, part, sentence):
    with pytest.raises(UserError, match=sentence):
        split.open_split(prepared / "data", name, part)


def test_an_unfinished_dataset_is_no_dataset(tmp_path):
    (tmp_path / "cells/1.0.0.incomplete").mkdir(parents=True)
    (tmp_path / "cells/1.0.0.incomplete/dataset_info.json").touch()
    with pytest.raises(UserError, match="no prepared dataset 'cells'.*there is none"):
        split.open_split(tmp_path, "cells", "train")


def write_stock_coco(folder, images, annotations, names=coco_json.COCO_CATEGORIES.names) -> None:
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
                "label": names[coco_json.COCO_CATEGORIES.label_of_id[row["category_id"]]],
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
        chosen = split.open_split(tmp_path, "coco/2017", "val")
        assert chosen.categories == coco_json.COCO_CATEGORIES
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
    names = ["zeppelin", *coco_json.COCO_CATEGORIES.names[1:]]
    write_stock_coco(tmp_path / "coco/2017/1.1.0", IMAGES, ANNOTATIONS, names)
    with pytest.raises(UserError, match="not COCO's .zeppelin"):
        split.open_split(tmp_path, "coco/2017", "validation")


def test_real_photos(real_data, tmp_path):
    root = real_data / "coco128"
    train = coco_folder.Source(root / "images/train2017", root / "annotations/instances_train2017.json")
    summary = builder.prepare({"train": train}, tmp_path, "coco128")["train"]
    assert (summary.images, summary.empty, summary.targets, summary.crowd) == (128, 2, 929, 10)
    chosen = split.open_split(tmp_path, "coco128", "train")
    assert sum(len(chosen[row].labels) for row in range(128)) == chosen.target_counts.sum() == 929
    assert len(chosen.ground_truth()["annotations"]) == 939
