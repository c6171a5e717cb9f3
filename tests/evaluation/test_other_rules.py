"""Figures by other rules against pycocotools with the same rules: every figure, overall and of each class."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO as Annotations
from pycocotools.cocoeval import COCOeval

from detr_jax.evaluation import coco_eval
from detr_jax.evaluation.other_rules import evaluate_by
from detr_jax.evaluation.protocol import COCO, list_figures, read_protocol
from tests.evaluation.random_results import random_set
from tests.evaluation.test_average_precision import awkward, mean

RULES = {
    "iou": {"iou": "0.3:0.95"},
    "one iou": {"iou": "0.5"},
    "low and exact": {"iou": "0.05:1:0.05"},
    "sixty": {"iou": "0.4:0.99:0.01"},
    "many": {"max_dets": "300"},
    "few": {"max_dets": "1,3"},
    "areas": {"areas": "tiny:0:16^2,small:16^2:32^2,rest:32^2:"},
    "all": {"iou": "0.1:0.9:0.1", "max_dets": "2,40", "areas": "narrow:1000:1100,wide:0:1e9"},
}


def directly(rules, truth, results):
    """The arrays of pycocotools: precision [T R K A M], recall [T K A M]."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = Annotations()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        scored = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        scored.params.iouThrs, scored.params.maxDets = np.array(rules.ious), list(rules.limits)
        scored.params.areaRng = [[area.low, area.high] for area in rules.areas]
        scored.params.areaRngLbl = [area.name for area in rules.areas]
        scored.evaluate()
        scored.accumulate()
    return scored.eval["precision"], scored.eval["recall"]


def assert_equal(rules, truth, results):
    precision, recall = directly(rules, truth, results)
    ours = evaluate_by(rules, truth, results)
    assert len(ours.numbers) == len(list_figures(rules))
    for number, figure in enumerate(list_figures(rules)):
        theirs = recall if figure.is_recall else precision
        theirs = theirs[..., figure.area, figure.limit if figure.is_recall else -1]
        theirs = theirs if figure.iou is None else theirs[figure.iou]
        np.testing.assert_allclose(ours.numbers[number], mean(theirs), rtol=0, atol=1e-12, err_msg=figure.name)
        of_classes = [mean(theirs[..., k]) for k in range(theirs.shape[-1])]
        np.testing.assert_allclose([row[number] for row in ours.of_classes], of_classes, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_every_figure_is_pycocotools(case, seed):
    rules = read_protocol(**RULES[case])
    assert_equal(rules, *awkward(seed))
    assert_equal(rules, *random_set(seed, crowds=True))


@pytest.mark.parametrize("case", ["iou", "many", "areas"])
def test_on_real_annotations(real_data, case):
    folder = real_data / "evaluator"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    assert_equal(read_protocol(**RULES[case]), truth, results)


def test_cocos_rules_give_cocos_figures():
    truth, results = awkward(1)
    metrics, ours = coco_eval.evaluate(truth, results), evaluate_by(COCO, truth, results)
    assert ours.numbers == metrics.numbers and ours.names == list(coco_eval.NAMES)
    assert [row[:3] for row in ours.of_classes] == [[row.AP, row.AP50, row.AP75] for row in metrics.classes]


def test_a_limit_above_cocos_counts_what_coco_leaves_out():
    truth, _ = awkward(0)
    wanted = {**truth["annotations"][0], "iscrowd": 0, "area": 500.0}
    truth["annotations"] = [wanted]
    row = {"image_id": wanted["image_id"], "category_id": wanted["category_id"], "score": 0.5}
    results = [{**row, "bbox": [0.0, 0.0, 1.0, 1.0]}] * 150 + [{**row, "bbox": wanted["bbox"]}]
    assert coco_eval.evaluate(truth, results).AR100 == 0
    other = evaluate_by(read_protocol(max_dets="300"), truth, results)
    assert dict(zip(other.names, other.numbers, strict=True))["AR300"] == 1


def test_both_are_written(tmp_path):
    truth, results = random_set(0)
    other = evaluate_by(read_protocol(iou="0.3:0.95"), truth, results)
    coco_eval.write_evaluation(metrics := coco_eval.evaluate(truth, results), results, tmp_path, other)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["AP"] == metrics.AP and written["figures"]["AP[IoU=0.30:0.95]"] == other.numbers[0] > metrics.AP
    assert written["protocol"]["max_dets"] == [1, 10, 100]
    header = (tmp_path / "per_class.csv").read_text().splitlines()[0]
    assert header.startswith("id,name,AP,") and "AP[IoU=0.30:0.95]" in header
