"""Result files of other programs: understood where it is clear what is meant, else one sentence."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_api

from detr_jax.errors import UserError
from detr_jax.evaluation.coco_eval import ground_truth_as_results
from detr_jax.evaluation.results import read_results
from tests.evaluation.random_results import random_set

GROUND_TRUTH, FOUND = random_set(1)
GOOD = {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


def read(tmp_path, rows) -> tuple[list[dict], list[str]]:
    path = tmp_path / "results.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return read_results(path, GROUND_TRUTH)


def test_coco_results_are_read_as_they_are(tmp_path):
    assert read(tmp_path, FOUND) == (FOUND, [])


def test_no_detections_are_an_answer(tmp_path):
    rows, (note,) = read(tmp_path, [])
    assert rows == [] and "no detections" in note


@pytest.mark.parametrize(
    ("kind", "words"), [("xyxy", "x0, y0, x1, y1"), ("cxcywh", "centre x, centre y, width, height")]
)
def test_boxes_in_another_format_are_recognised(tmp_path, kind, words):
    rows, changed = ground_truth_as_results(GROUND_TRUTH), []
    for row in rows:
        x, y, w, h = row["bbox"]
        box = [x, y, x + w, y + h] if kind == "xyxy" else [x + w / 2, y + h / 2, w, h]
        changed.append({**row, "bbox": box})
    read_rows, (note,) = read(tmp_path, changed)
    np.testing.assert_allclose([row["bbox"] for row in read_rows], [row["bbox"] for row in rows])
    assert words in note


def test_a_bad_detector_is_no_other_format(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{**row, "bbox": rng.uniform(0, 200, 4).tolist()} for row in FOUND]
    assert read(tmp_path, rows) == (rows, [])


def test_masks_give_their_boxes(tmp_path):
    canvas = np.zeros((240, 320), np.uint8, order="F")
    canvas[20:50, 10:90] = 1
    mask = mask_api.encode(canvas)
    whole = {**{key: GOOD[key] for key in ("image_id", "category_id", "score")}}
    coded = {**whole, "segmentation": {"size": mask["size"], "counts": mask["counts"].decode()}}
    rows, (note,) = read(tmp_path, [coded])
    assert rows[0]["bbox"] == [10, 20, 80, 30] and "masks" in note
    with pytest.raises(UserError, match="segmentation of result 0 is no run-length"):
        read(tmp_path, [{**whole, "segmentation": {"size": [1, 2], "counts": 3}}])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("{", "is not JSON"),
        ("7", "no list"),
        ({"images": [], "annotations": []}, "an object (images, annotations), not a list of results"),
        ([1], "result 0 is no object"),
        ([{**GOOD, "bbox": [1, 2, 3]}], "bbox of result 0 is [1, 2, 3], not four numbers"),
        ([GOOD, {**GOOD, "bbox": None}], "bbox of result 1"),
        ([{**GOOD, "bbox": [1, 2, 3, "4"]}], "not four numbers"),
        ([{**GOOD, "score": "high"}], "score of result 0 is high, not a number"),
        ('[{"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": NaN}]', "score of result 0 is nan"),
        ([{**GOOD, "score": 87.5}], "scores from 87.5 to 87.5; they must be 0 to 1"),
        ([{**GOOD, "score": -0.5}], "must be 0 to 1"),
        ([{key: GOOD[key] for key in ("image_id", "bbox", "score")}], "result 0 has no category_id"),
        ([{key: GOOD[key] for key in ("image_id", "category_id", "score")}], "result 0 has no bbox"),
        ([{**GOOD, "image_id": 999}], "images that the ground truth does not have: 999"),
        ([{**GOOD, "category_id": 999}], "categories that the ground truth does not have: 999"),
        ([{**GOOD, "image_id": [1]}], "image_id of result 0 is [1], not an id"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, rows, words):
    with pytest.raises(UserError) as raised:
        read(tmp_path, rows)
    assert words in str(raised.value) and "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_a_file_that_is_missing_or_huge(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_results(tmp_path / "nothing.json", GROUND_TRUTH)
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(1_000_000_000)
    with pytest.raises(UserError, match="has 1.0 GB; keep the best 100 detections"):
        read_results(tmp_path / "huge.json", GROUND_TRUTH)
