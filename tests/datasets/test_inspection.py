"""Looking at a dataset before training: what is counted, and every defect with its id."""

import json

import numpy as np
import pytest

from detr_jax.datasets import defects, shapes
from detr_jax.datasets.defects import Defect
from detr_jax.datasets.folders import SplitFolder, find_splits
from detr_jax.datasets.inspection import count_objects, inspect_folder, inspect_split
from detr_jax.datasets.prepare import prepare_dataset
from detr_jax.datasets.split import open_split
from tests.datasets.folder_of_images import ground_truth, make_image, write_folder


def test_a_folder_and_its_prepared_split_have_the_same_boxes(tmp_path):
    folder = write_folder(tmp_path / "raw", ground_truth())
    found = inspect_folder(folder)
    assert found.images == 3 and found.categories.ids == (3, 12)
    assert found.boxes.tolist() == [1, 1]  # one of class 3 is a crowd, one lies outside of its image
    copied, degenerate = found.defects  # c.jpg and ü.jpg are the same picture
    assert copied.kind == "the same picture under two names" and not copied.stops
    where = ("annotation 6 of image 30",)
    assert degenerate == Defect("box without area in the image, not trained on", 1, where, stops=False)
    prepare_dataset({"train": folder}, tmp_path, "cells")
    prepared = inspect_split(open_split(tmp_path, "cells", "train"))
    assert prepared._replace(boxes=[1, 1]) == found._replace(boxes=[1, 1]) and prepared.boxes.tolist() == [1, 1]


def test_every_kind_of_defect_is_named(tmp_path):
    files = {"c.jpg": make_image()[:300], "a.png": make_image(image_format="PNG")}
    folder = write_folder(tmp_path, ground_truth(), files)
    found = inspect_folder(folder)
    assert found.images == 3 and found.boxes.tolist() == [1, 0]  # those of the broken image are not counted
    missing, broken = found.defects
    assert missing.where == ("image 20: sub/ü.jpg",) and missing.kind.startswith("image file not found")
    assert broken.kind == "image that cannot be used" and "image 30 (" in broken.where[0] and "c.jpg" in broken.where[0]
    assert missing.stops and broken.stops


def test_classes_that_are_not_listed_are_not_counted(tmp_path):
    content = ground_truth() | {"categories": [{"id": 3, "name": "circle"}]}
    found = inspect_folder(write_folder(tmp_path, content))
    assert found.boxes.tolist() == [2]  # whether a box has area is unknown while the file has such defects
    assert [d.where for d in found.defects if d.stops] == [("annotation 8 of image 30 has category 12",)]


def test_a_split_whose_images_are_all_missing(tmp_path):
    found = inspect_folder(write_folder(tmp_path, ground_truth(), {"z.png": make_image()}))
    assert found.images == 3 and not found.boxes.any() and [defect.count for defect in found.defects] == [3]


def test_statistics_are_those_of_the_file(tmp_path):
    shapes.write(tmp_path / "raw", shapes.Settings(train=20, val=2, size=64))
    prepare_dataset(find_splits(tmp_path / "raw"), tmp_path, "cells")
    rows = json.loads((tmp_path / "raw/annotations/instances_train2017.json").read_text())["annotations"]
    counts = count_objects(open_split(tmp_path, "cells", "train"))
    for label, category_id in enumerate((3, 7, 12)):
        own = [row for row in rows if row["category_id"] == category_id]
        assert counts.boxes[label].sum() == len(own)
        assert counts.boxes[label, 0] == sum(row["area"] < 32**2 for row in own)
        assert counts.images[label] == len({row["image_id"] for row in own})
    assert counts.boxes_of_image.sum() == len(rows) and counts.crowds == 0


def test_real_photos(real_data):
    root = real_data / "coco128"
    folder = SplitFolder(root / "images/train2017", root / "annotations/instances_train2017.json")
    found = inspect_folder(folder)
    assert (found.images, int(found.boxes.sum()), len(found.categories.ids)) == (128, 929, 80)
    assert not [defect for defect in found.defects if defect.stops]
    assert isinstance(found.boxes, np.ndarray)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_synthetic_set_has_no_defect(tmp_path, split):
    shapes.write(tmp_path / "raw", shapes.Settings(train=6, val=6, size=48))
    assert inspect_folder(find_splits(tmp_path / "raw")[split]).defects == []


@pytest.mark.parametrize("width, rotation", [(60, 2), (60, 3), (60, 4), (40, 3), (40, 6), (40, 5)])
def test_turned_images_that_nobody_can_tell_are_counted(tmp_path, width, rotation):
    """Mirrored and square images have the stated size whichever way the boxes were drawn."""
    files = {"c.jpg": make_image(width, rotation=rotation), "a.png": make_image(image_format="PNG", rotation=1)}
    content = ground_truth()
    content["images"] = [content["images"][0] | {"width": width}, content["images"][1]]
    folder = write_folder(tmp_path / "raw", content, files)
    prepare_dataset({"train": folder}, tmp_path, "cells")
    for found in (inspect_folder(folder), inspect_split(open_split(tmp_path, "cells", "train"))):
        where = (f"image 30 (c.jpg): orientation {rotation}",)
        assert found.defects[0] == Defect(defects.UNSURE_TURN, 1, where, stops=False) and len(found.defects) == 2
