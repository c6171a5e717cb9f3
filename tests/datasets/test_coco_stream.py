"""Annotation files as columns: the text of every annotation, the targets of every image, every defect."""

import json
import re

import numpy as np
import pytest

from detr_jax.datasets import coco, coco_stream
from detr_jax.errors import UserError
from tests.datasets.ground_truth import GROUND_TRUTH


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(GROUND_TRUTH, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def test_scan_keeps_every_annotation_letter_for_letter(file):
    columns = coco_stream.scan(file)
    assert columns.file_names == ["b.jpg", "ä.jpg", "empty.jpg"]
    assert columns.categories.names == ("c", "日本", "tri")
    texts = [(columns.image_ids[row], json.loads(text)) for row, text in columns.annotation_texts()]
    rows = GROUND_TRUTH["annotations"]
    assert texts == [(10, [rows[1], rows[4]]), (20, []), (30, [rows[0], rows[2], rows[3]])]


def test_tally_agrees_with_the_targets_of_each_image(file):
    columns = coco_stream.scan(file)
    tally = coco_stream.tally(columns, columns.sizes)
    categories = coco.categories(GROUND_TRUTH["categories"])
    for row, image in enumerate(GROUND_TRUTH["images"]):
        own = [row for row in GROUND_TRUTH["annotations"] if row["image_id"] == image["id"]]
        assert tally.targets_of_image[row] == len(coco.make_targets(image, own, categories)[1])
    assert tally.is_degenerate.tolist() == [False, False, False, True, True]


def test_a_selection_has_no_annotation_of_another_image(file):
    columns = coco_stream.scan(file)
    part = columns.select_images(np.array([False, True, True]))
    assert part.image_ids.tolist() == [10, 20] and part.file_names == ["ä.jpg", "empty.jpg"]
    assert part.annotation_ids.tolist() == [2, 5] and len(part.sizes) == 2


def with_annotation(**changes):
    row = {"id": 1, "image_id": 30, "category_id": 3, "bbox": [0, 0, 2, 2]} | changes
    return GROUND_TRUTH | {"annotations": [{key: value for key, value in row.items() if value is not None}]}


MALFORMED = {
    "no bbox": (with_annotation(bbox=None), "bbox is missing: it must be four numbers"),
    "three numbers": (with_annotation(bbox=[1, 2, 3]), r"bbox is \[1, 2, 3\]: it must be four numbers"),
    "text as id": (with_annotation(image_id="a"), "image_id is 'a': ids of images and categories must be integers"),
    "NaN": (with_annotation(bbox=[0, 0, float("nan"), 2]), r"bbox is \[0, 0, NaN, 2\]: it must be four finite numbers"),
}


@pytest.mark.parametrize(("content", "sentence"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_entries_are_named(tmp_path, content, sentence):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    (defect,) = coco_stream.find_defects(coco_stream.scan(path))
    assert re.fullmatch(rf"annotations number 1 \(id 1\): {sentence}.*", defect.where[0]) and defect.stops
    with pytest.raises(UserError, match=rf"instances.json: .*annotations number 1 \(id 1\): {sentence}"):
        coco.read_annotations(path)


@pytest.mark.parametrize("reader", [coco_stream.scan, coco.read_annotations])
def test_a_category_id_is_used_once(tmp_path, reader):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(GROUND_TRUTH | {"categories": [{"id": 3, "name": "a"}] * 2}))
    with pytest.raises(UserError, match="category id 3 is used twice"):
        reader(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        coco_stream.scan(tmp_path / "nope.json")


DEFECTS = {
    "image not listed": (with_annotation(image_id=99), "image that is not listed", "annotation 1 of image 99"),
    "category not listed": (with_annotation(category_id=99), "category that is not listed", "has category 99"),
    "negative": (with_annotation(bbox=[9, 9, -2, 2]), "negative width or height", "annotation 1 of image 30"),
    "no own id": (with_annotation(id=None, category_id=99), "category", "annotation number 1 of image 30"),
    "annotation id twice": (
        GROUND_TRUTH | {"annotations": GROUND_TRUTH["annotations"][:1] * 2},
        "annotation id used twice",
        "annotation 1",
    ),
    "image id twice": (
        GROUND_TRUTH | {"images": GROUND_TRUTH["images"] + GROUND_TRUTH["images"][:1]},
        "image id used twice",
        "image 30",
    ),
}


@pytest.mark.parametrize(("content", "kind", "where"), DEFECTS.values(), ids=DEFECTS)
def test_defects_are_named_by_their_id(tmp_path, content, kind, where):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    (defect,) = coco_stream.find_defects(coco_stream.scan(path))
    assert kind in defect.kind and where in defect.where[0] and defect.count == len(defect.where) == 1
    assert defect.stops == (kind != "annotation id used twice")  # these only name annotations in messages
