"""Boxes that are probably not meant, each named; ordinary boxes are not."""

import json

import numpy as np
import pytest

from detr_jax.datasets import coco_stream, defects
from detr_jax.datasets.box_checks import find_suspicious_boxes

BOXES = [[10, 10, 30, 20], [45, 35, 25, 15], [0, 0, 80, 60], [70, 50, 10.4, 10.4]]


def find(tmp_path, boxes, size=(60, 80), **fields) -> list[defects.Defect]:
    rows = [{"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, **fields} for i, box in enumerate(boxes)]
    content = {"images": [{"id": 1, "file_name": "a"}], "annotations": rows, "categories": [{"id": 1}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return find_suspicious_boxes(coco_stream.scan(tmp_path / "a.json"), np.array([size]))


CASES = {
    "less than a pixel": ([*BOXES, [1, 1, 0.5, 9]], {defects.TINY_BOX: 1}),
    "beyond right": ([*BOXES, [60, 10, 50, 20]], {defects.BEYOND: 1}),
    "beyond left": ([*BOXES, [-9, 10, 50, 20]], {defects.BEYOND: 1}),
    "twice": ([*BOXES, BOXES[0], BOXES[0]], {defects.REPEATED_BOX: 2}),
    "outside": ([*BOXES, [90, 10, 5, 5]], {defects.NO_AREA: 1}),
    "no width": ([*BOXES, [9, 10, 0, 5]], {defects.NO_AREA: 1}),
    "fractions": ([[x / 80, y / 60, w / 80, h / 60] for x, y, w, h in BOXES[:3]], {defects.FRACTIONS: 3}),
    "some fractions": ([*BOXES, [0.1, 0.2, 0.3, 0.4]], {defects.TINY_BOX: 1}),
    "corners": ([[x, y, x + w, y + h] for x, y, w, h in BOXES], {defects.CORNERS: 4}),
}


@pytest.mark.parametrize(("boxes", "kinds"), CASES.values(), ids=CASES)
def test_each_kind_is_named_alone(tmp_path, boxes, kinds):
    found = find(tmp_path, boxes)
    assert {defect.kind: defect.count for defect in found} == kinds
    for defect in found:
        assert defect.stops == (defect.kind in (defects.FRACTIONS, defects.CORNERS))
        assert "of image 1" in defect.where[0] and defects.MEANINGS[defect.kind] in str(defect)


def test_ordinary_boxes_are_not(tmp_path):
    assert find(tmp_path, BOXES) == []
    assert find(tmp_path, [[30, 20, 40, 30]] * 1) == []  # too few to judge a convention
    assert find(tmp_path, [[0, 0, 1, 1], [0, 0, 1, 0.9], [0, 0, 0.9, 1]], size=(1, 1)) != []
    assert defects.FRACTIONS not in {d.kind for d in find(tmp_path, [[0, 0, 1, 1]] * 3, size=(1, 1))}


def test_crowds_and_images_of_unknown_size_are_not_judged(tmp_path):
    assert find(tmp_path, [[60, 10, 50, 20]] * 2, iscrowd=1) == []
    assert find(tmp_path, [[60, 10, 50, 20]] * 2, size=(0, 0)) == []
