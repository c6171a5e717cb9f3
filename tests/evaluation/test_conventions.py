"""Annotations in the manner of LVIS, Objects365 and Open Images: scored by COCO's rules, and what differs is said."""

import json

import pytest

from detr_jax.datasets import coco
from detr_jax.evaluation import coco_eval
from detr_jax.evaluation.conventions import describe_conventions
from tests.evaluation.random_results import random_set


def test_plain_coco_needs_no_word():
    truth, _ = random_set(0, crowds=True)
    assert describe_conventions(truth) == []


def test_lvis_is_read_and_named(tmp_path):
    truth, results = random_set(0)
    for image in truth["images"]:
        url = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
        image |= {"coco_url": url, "neg_category_ids": [3], "not_exhaustive_category_ids": []}
    for annotation in truth["annotations"]:
        del annotation["iscrowd"]
    truth["categories"] = [c | {"frequency": "r", "synset": "x.n.01", "image_count": 3} for c in truth["categories"]]
    (tmp_path / "lvis.json").write_text(json.dumps(truth))
    read = coco.read_annotations(tmp_path / "lvis.json")
    assert read["images"][0]["file_name"] == "val2017/1.jpg"
    (note,) = describe_conventions(read)
    assert "LVIS" in note and "the package lvis" in note
    assert coco_eval.evaluate(read, results).numbers == coco_eval.evaluate(random_set(0)[0], results).numbers


@pytest.mark.parametrize("mark", [{"IsGroupOf": 1}, {"attributes": {"is_group_of": True}}, {"isgroupof": "1"}])
def test_groups_of_open_images_are_named_unless_they_are_crowds(mark):
    truth, _ = random_set(0)
    truth["annotations"][0] |= mark
    truth["annotations"][1] |= mark | {"iscrowd": 1}
    truth["annotations"][2] |= {"IsGroupOf": 0}
    (note,) = describe_conventions(truth)
    assert note.startswith("1 annotations are marked as groups") and "iscrowd" in note


@pytest.mark.parametrize("count", [365, 601])
def test_tables_of_hundreds_of_classes(count):
    """Objects365 and Open Images: ids from 1 without gaps, fields of their own, no area, no segmentation."""
    truth, results = random_set(0, classes=4)
    right = coco_eval.evaluate(truth, results).numbers
    truth["categories"] = [{"id": i, "name": f"class {i}"} for i in range(1, count + 1)]
    for annotation in truth["annotations"]:
        del annotation["area"]
        annotation |= {"isfake": 0, "isreflected": 0}
    metrics = coco_eval.evaluate(truth, results)
    assert metrics.numbers == pytest.approx(right, abs=1e-12) and len(metrics.classes) == count
    assert describe_conventions(truth) == []
