"""COCO annotations as dicts: the rule of training targets, classes, other kinds of files."""

import json

import numpy as np
import pytest

from detr_jax.datasets import coco, coco_stream
from detr_jax.errors import UserError
from tests.datasets.ground_truth import GROUND_TRUTH


def test_coco_has_80_classes_with_ids_up_to_90():
    table = coco.COCO_CATEGORIES
    assert len(table.ids) == len(set(table.names)) == 80
    named = dict(zip(table.names, table.ids, strict=True))
    assert (named["person"], named["stop sign"], named["parking meter"]) == (1, 13, 14)
    assert (named["dining table"], named["toilet"], named["toothbrush"]) == (67, 70, 90)


def test_coco_table_is_the_one_of_the_official_file(real_data):
    official = coco.read_annotations(real_data / "coco128/annotations/instances_train2017.json")
    assert coco.categories(official["categories"]) == coco.COCO_CATEGORIES


def test_targets_drop_crowds_clamp_and_drop_what_has_no_area():
    categories = coco.categories(GROUND_TRUTH["categories"])
    assert categories.ids == (3, 7, 12)
    own = [row for row in GROUND_TRUTH["annotations"] if row["image_id"] == 30]
    boxes, labels = coco.make_targets(GROUND_TRUTH["images"][0], own, categories)
    np.testing.assert_allclose(boxes, [[1.1, 2.2, 11.4, 22.6], [0, 30, 15, 40]], rtol=1e-6)
    assert labels.tolist() == [2, 0]
    boxes, labels = coco.make_targets(GROUND_TRUTH["images"][2], [], categories)
    assert boxes.shape == (0, 4) and labels.shape == (0,)


def test_part_of_a_file_keeps_rows_as_they_are_and_fills_in_sizes():
    bare = {
        "images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "b"}],
        "annotations": [{"id": 0, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 3]}]
        + [{"id": 1, "image_id": 2, "category_id": 1, "bbox": [0, 0, 2, 3], "iscrowd": 1, "area": 5}],
        "categories": [{"id": 1, "name": "x"}],
    }
    part = coco.select_images(bare, {1: (4, 5)})
    assert part["images"] == [{"id": 1, "file_name": "a", "height": 4, "width": 5}]
    assert part["annotations"] == bare["annotations"][:1]
    assert coco.select_images(bare | {"images": [{"id": 1, "height": 9, "width": 9}]}, {1: (4, 5)})["images"] == [
        {"id": 1, "height": 4, "width": 5}
    ]
    assert len(bare["images"]) == 2


def test_an_id_may_be_used_once():
    with pytest.raises(UserError, match="category id 3 is used twice"):
        coco.categories([{"id": 3, "name": "a"}, {"id": 1, "name": "b"}, {"id": 3, "name": "c"}])


def test_class_tables_are_compared_by_id_and_name():
    one = coco.categories(GROUND_TRUTH["categories"])
    other = coco.categories([{"id": 3, "name": "c"}, {"id": 7, "name": "bird"}, {"id": 12, "name": "tri"}])
    assert coco.compare_categories(one, one) == []
    assert coco.compare_categories(one, other) == ["7 'bird'", "7 '日本'"]


def without(key):
    return {name: value for name, value in GROUND_TRUTH.items() if name != key}


UNREADABLE = {
    "cut in the middle": (json.dumps(GROUND_TRUTH)[:-40], "not readable JSON"),
    "empty": ("", "not readable JSON"),
    "not JSON": ("<annotation>", "not readable JSON"),
    "detections": ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], "list of detections"),
    "a list": ([1, 2], "is a list"),
    "panoptic": (GROUND_TRUTH | {"annotations": [{"segments_info": [], "image_id": 1}]}, "panoptic"),
    "captions": (GROUND_TRUTH | {"annotations": [{"caption": "a dog", "image_id": 1, "id": 1}]}, "caption"),
    "LabelMe": ({"version": "5", "shapes": [], "imagePath": "a.jpg"}, "LabelMe"),
    "something else": ({"name": "x", "files": []}, "holds name, files but no images"),
    "no categories": (without("categories"), "no categories"),
    "no classes": (GROUND_TRUTH | {"categories": []}, "lists no categories"),
    "no images": (GROUND_TRUTH | {"images": []}, "lists no images"),
}


@pytest.mark.parametrize(("content", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("reader", [coco_stream.scan, coco.read_annotations])
def test_other_files_are_refused_by_name(tmp_path, reader, content, sentence):
    path = tmp_path / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=sentence) as error:
        reader(path)
    assert "instances.json" in str(error.value) and "\n" not in str(error.value)
