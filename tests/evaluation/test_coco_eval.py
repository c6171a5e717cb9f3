import contextlib
import copy
import csv
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr_jax.errors import UserError
from detr_jax.evaluation import coco_eval


def synthetic(seed=0, images=25):
    """Ground truth with gaps in every id, crowds, empty images, a class without objects; and imperfect results."""
    rng = np.random.default_rng(seed)
    classes = [{"id": i, "name": f"class {i}"} for i in (3, 7, 90, 200)]
    truth = {"info": {}, "images": [], "annotations": [], "categories": classes}
    results = []
    for i in range(images):
        image_id = 10 + 7 * i
        truth["images"].append({"id": image_id, "width": 640, "height": 480, "file_name": f"{image_id}.jpg"})
        for _ in range(rng.integers(0, 12) if i % 5 else 0):
            width, height = np.exp(rng.uniform(2.0, 5.5, 2))
            x, y = rng.uniform(0, 640 - width), rng.uniform(0, 480 - height)
            category_id = int(rng.choice([3, 7, 90]))
            truth["annotations"].append(
                {"id": 100 + 3 * len(truth["annotations"]), "image_id": image_id, "category_id": category_id,
                 "bbox": [x, y, width, height], "area": width * height * rng.uniform(0.5, 1),
                 "iscrowd": int(rng.random() < 0.1)}
            )  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                shift = rng.normal(0, 0.06, 4) * [width, height, width, height]
                box = (np.array([x, y, width, height]) + shift).tolist()
                guess = category_id if rng.random() < 0.8 else 7
                row = {"image_id": image_id, "category_id": guess, "bbox": box, "score": round(rng.random(), 2)}
                results.append(row)
    return truth, results


def directly(truth, results):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        printed.truncate(0)
        printed.seek(0)
        evaluator.summarize()
    return evaluator.stats, printed.getvalue()


def perfect(truth):
    return coco_eval.evaluate(truth, coco_eval.ground_truth_as_results(truth))


def one_object(**changes):
    annotation = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [10.0, 10.0, 50.0, 40.0], "iscrowd": 0, **changes}
    image = {"id": 5, "width": 100, "height": 80, "file_name": "a.jpg"}
    return {"images": [image], "annotations": [annotation], "categories": [{"id": 3, "name": "cat"}]}


@pytest.mark.parametrize("seed", range(3))
def test_numbers_and_lines_equal_pycocotools(seed, capsys):
    truth, results = synthetic(seed)
    before = copy.deepcopy((truth, results))
    metrics = coco_eval.evaluate(truth, results)
    expected, lines = directly(truth, results)
    np.testing.assert_allclose(metrics.numbers, expected, rtol=0, atol=1e-12)
    assert coco_eval.format_summary(metrics) == lines.rstrip("\n")
    assert (truth, results) == before
    assert capsys.readouterr().out == ""


def test_rows_of_classes():
    truth, results = synthetic()
    metrics = coco_eval.evaluate(truth, results)
    assert [row.id for row in metrics.classes] == [3, 7, 90, 200]
    absent = metrics.classes[-1]
    assert (absent.AP, absent.AR100, absent.objects) == (-1.0, -1.0, 0)
    assert np.mean([row.AP for row in metrics.classes[:3]]) == pytest.approx(metrics.AP, abs=1e-12)
    assert np.mean([row.AR100 for row in metrics.classes[:3]]) == pytest.approx(metrics.AR100, abs=1e-12)
    real = [a for a in truth["annotations"] if a["category_id"] == 7 and not a["iscrowd"]]
    assert metrics.classes[1].objects == len(real)
    assert metrics.classes[1].images == len({a["image_id"] for a in real})
    assert metrics.precision.shape == (10, 101, 4)


def test_mean_iou_of_matched_detections():
    truth = one_object()
    found = {"image_id": 5, "category_id": 3, "score": 0.9}
    half = {**found, "bbox": [10.0, 10.0, 50.0, 30.0]}  # IoU 0.75
    miss = {**found, "bbox": [70.0, 10.0, 20.0, 30.0]}
    assert coco_eval.evaluate(truth, [half, miss]).mean_iou == pytest.approx(0.75)
    assert coco_eval.evaluate(truth, [miss]).mean_iou == -1.0


@pytest.mark.parametrize("gone", ["info", "licenses", "area", "iscrowd", "id", "segmentation"])
def test_gaps_of_real_files_change_nothing(gone):
    truth, results = synthetic()
    for annotation in truth["annotations"]:
        annotation |= {"area": annotation["bbox"][2] * annotation["bbox"][3], "iscrowd": 0, "segmentation": []}
    expected, _ = directly(truth, results)
    truth.pop(gone, None)
    for annotation in truth["annotations"]:
        annotation.pop(gone, None)
    assert coco_eval.evaluate(truth, results).numbers == pytest.approx(expected.tolist(), abs=1e-12)


def test_annotation_ids_that_start_at_zero_or_repeat():
    truth, results = synthetic()
    expected = coco_eval.evaluate(truth, results).numbers
    for number, annotation in enumerate(truth["annotations"]):
        annotation["id"] = number // 2
    assert coco_eval.evaluate(truth, results).numbers == expected
    np.testing.assert_allclose(perfect(one_object(id=0)).AP, 1.0)


def test_no_results_is_zero_and_sizes_without_objects_stay_minus_one():
    metrics = coco_eval.evaluate(one_object(), [])
    assert metrics.AP == metrics.AR100 == metrics.AP_medium == 0.0
    assert metrics.AP_small == metrics.AP_large == -1.0
    assert coco_eval.evaluate({**one_object(), "annotations": []}, []).AP == -1.0


def test_only_the_asked_images_count():
    truth, results = synthetic()
    some = [image["id"] for image in truth["images"][:12]]
    smaller = {
        **truth,
        "images": truth["images"][:12],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in some],
    }
    expected, _ = directly(smaller, [row for row in results if row["image_id"] in some])
    metrics = coco_eval.evaluate(truth, results, image_ids=some)
    np.testing.assert_allclose(metrics.numbers, expected, rtol=0, atol=1e-12)
    assert sum(row.objects for row in metrics.classes) == sum(not a["iscrowd"] for a in smaller["annotations"])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"image_id": 99}, "99"),
        ({"image_id": "5"}, "'5'"),
        ({"category_id": 4}, "categories .* 4; it has 3"),
        ({"score": float("nan")}, "image 5"),
        ({"bbox": [0, 0, float("inf"), 1]}, "image 5"),
    ],
)
def test_results_that_do_not_fit_are_named(change, words):
    row = {"image_id": 5, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5} | change
    with pytest.raises(UserError, match=words):
        coco_eval.evaluate(one_object(), [row])
    with pytest.raises(UserError, match="result 0 has no bbox"):
        coco_eval.evaluate(one_object(), [{"image_id": 5, "category_id": 3, "score": 1.0}])


def test_ground_truth_as_results_is_perfect():
    truth, _ = synthetic()
    np.testing.assert_allclose([perfect(truth).AP, perfect(truth).mean_iou], 1.0, atol=1e-9)
    assert coco_eval.check_ground_truth(truth) == []


@pytest.mark.parametrize(
    "change, words",
    [
        ({"bbox": [200, 10, 50, 40]}, "outside of their image .annotations 1.:"),
        ({"bbox": [60, 50, 120, 110]}, "outside of their image"),  # corners written where width and height belong
        ({"image_id": 6}, "annotations 1 belong to images"),
        ({"category_id": 9}, "annotations 1 belong to categories"),
    ],
)
def test_data_that_no_detector_could_find_stops_with_the_reason(change, words):
    truth = one_object()
    truth["annotations"] += [{**truth["annotations"][0], "id": 2}]
    truth["annotations"][0].update(change)
    with pytest.raises(UserError, match=words):
        coco_eval.check_ground_truth(truth)


@pytest.mark.parametrize("box", [[10, 10, 0, 40], [10, 10, -5, 40]])
def test_boxes_without_area_are_a_warning_unless_there_is_nothing_else(box):
    truth = one_object(bbox=box)
    with pytest.raises(UserError, match="nothing to score"):
        coco_eval.check_ground_truth(truth)
    truth["annotations"] += [{**one_object()["annotations"][0], "id": 2}]
    (warning,) = coco_eval.check_ground_truth(truth)
    assert "annotations 1 have boxes without area, which nothing can match, so AP cannot exceed" in warning


@pytest.mark.parametrize("annotations", [[], one_object(iscrowd=1)["annotations"]], ids=["none", "crowds"])
def test_images_without_objects_are_kept_and_score_nothing(annotations):
    truth = one_object() | {"annotations": annotations}
    (warning,) = coco_eval.check_ground_truth(truth)
    assert "no objects" in warning and "AP is -1" in warning
    row = {"image_id": 5, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}
    assert coco_eval.evaluate(truth, [row]).numbers == directly(truth, [row])[0].tolist() == [-1] * 12


def test_duplicate_boxes_are_no_fault():
    truth = one_object()
    truth["annotations"] *= 3
    assert coco_eval.check_ground_truth(truth) == []


def test_a_box_that_reaches_a_little_over_the_edge_is_a_warning():
    (warning,) = coco_eval.check_ground_truth(one_object(bbox=[55.0, 10.0, 50.0, 40.0]))
    assert "beyond their image" in warning and "0.9" in warning


def test_more_objects_than_coco_looks_at_is_a_warning():
    truth = one_object()
    truth["annotations"] = [
        {**truth["annotations"][0], "id": i, "bbox": [9.0 * (i % 11), 6.0 * (i // 11), 5.0, 5.0]} for i in range(130)
    ]
    (warning,) = coco_eval.check_ground_truth(truth)
    assert "image 5 has 130 objects" in warning


def test_write(tmp_path):
    truth, results = synthetic()
    metrics = coco_eval.evaluate(truth, results)
    coco_eval.write_evaluation(metrics, results, tmp_path / "eval" / "100")
    names = {path.name for path in (tmp_path / "eval" / "100").iterdir()}
    assert names == {"metrics.json", "per_class.csv", "predictions.json", "pr_curve.png"}
    written = json.loads((tmp_path / "eval/100/metrics.json").read_text())
    assert written["coco_eval_bbox"] == metrics.numbers and written["AP50"] == metrics.AP50
    assert written["classes"][0]["name"] == "class 3"
    assert json.loads((tmp_path / "eval/100/predictions.json").read_text()) == results
    table = list(csv.DictReader((tmp_path / "eval/100/per_class.csv").open()))
    assert [float(row["AP"]) for row in table] == [row.AP for row in metrics.classes]


def test_published_figures(real_data):
    folder = real_data / "evaluator"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    boxes = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    masks = json.loads((folder / "instances_val2014_fakesegm100_results.json").read_text())
    bbox = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
    segm = [0.320, 0.562, 0.299, 0.387, 0.310, 0.327, 0.268, 0.415, 0.417, 0.469, 0.377, 0.381]
    assert np.round(coco_eval.evaluate(truth, boxes).numbers, 3).tolist() == bbox
    assert np.round(coco_eval.evaluate(truth, masks, iou_type="segm").numbers, 3).tolist() == segm


def test_figures_of_a_real_detector_and_of_the_tide_set(real_data):
    truth = json.loads((real_data / "coco128/annotations/instances_train2017.json").read_text())
    yolox = json.loads((real_data / "evaluator/yolox_nano/dets_coco128_train.json").read_text())
    assert round(coco_eval.evaluate(truth, yolox).AP, 4) == 0.3391
    assert coco_eval.check_ground_truth(truth) == []
    tide = [json.loads((real_data / "tide" / name).read_text()) for name in ("gt.json", "dt.json")]
    metrics = coco_eval.evaluate(*tide)
    assert (round(100 * metrics.AP, 4), round(100 * metrics.AP50, 4)) == (17.2385, 35.6445)
