"""Reading prepared datasets by random access."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from detr_jax.datasets import shapes
from detr_jax.datasets.folders import SplitFolder
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.datasets.split import open_split, split_names
from detr_jax.errors import UserError

SETTINGS = shapes.Settings(train=12, val=5, size=48)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("split")
    shapes.write(root / "raw", SETTINGS)
    shapes.prepare(root / "data", "shapes", SETTINGS)
    return root


def test_records_are_the_files_and_their_targets(prepared):
    chosen = open_split(prepared / "data", "shapes", "train")
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
    truth = open_split(prepared / "data", "shapes", "val").ground_truth()
    assert {key: truth[key] for key in original} == original


def test_a_slice_holds_its_images_only(prepared):
    part = open_split(prepared / "data", "shapes", "train[3:5]")
    whole = open_split(prepared / "data", "shapes", "train")
    assert part.image_ids.tolist() == [4, 5]
    assert part[1].image == whole[4].image
    truth = part.ground_truth()
    assert {image["id"] for image in truth["images"]} == {4, 5}
    assert len(truth["annotations"]) == part.target_counts.sum()


def test_a_split_travels_to_processes_and_serves_threads(prepared):
    chosen = open_split(prepared / "data", "shapes", "train[2:]")
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
        open_split(prepared / "data", name, part)


def test_an_unfinished_dataset_is_no_dataset(tmp_path):
    (tmp_path / "cells/1.0.0.incomplete").mkdir(parents=True)
    (tmp_path / "cells/1.0.0.incomplete/dataset_info.json").touch()
    with pytest.raises(UserError, match="no prepared dataset 'cells'.*there is none"):
        open_split(tmp_path, "cells", "train")


def test_splits_are_listed(prepared):
    assert split_names(prepared / "data", "shapes") == ["train", "val"]
    with pytest.raises(UserError, match="no prepared dataset 'nope'"):
        split_names(prepared / "data", "nope")


def test_real_photos(real_data, tmp_path):
    root = real_data / "coco128"
    train = SplitFolder(root / "images/train2017", root / "annotations/instances_train2017.json")
    summary = prepare_dataset({"train": train}, tmp_path, "coco128")["train"]
    assert (summary.images, summary.empty, summary.targets, summary.crowd) == (128, 2, 929, 10)
    chosen = open_split(tmp_path, "coco128", "train")
    assert sum(len(chosen[row].labels) for row in range(128)) == chosen.target_counts.sum() == 929
    assert len(chosen.ground_truth()["annotations"]) == 939
