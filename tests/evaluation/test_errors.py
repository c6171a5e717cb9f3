"""The whole analysis: seeded faults show in its figures, its lists and its advice, and what is written can be read."""

import csv
import json

import numpy as np
import pytest

from detr_jax.evaluation import coco_eval, error_plots, errors
from detr_jax.evaluation.advice import advise
from detr_jax.evaluation.suspects import find_suspects
from tests.evaluation.random_results import random_set


def perfect(seed: int = 1, images: int = 120) -> tuple[dict, list[dict]]:
    """A set, and results that find all of it."""
    ground_truth, _ = random_set(seed, images=images)
    return ground_truth, coco_eval.ground_truth_as_results(ground_truth)


def test_a_perfect_detector_has_nothing_to_mend():
    found = errors.analyse(*perfect())
    assert pytest.approx(1) == found.metrics.AP and found.mean_lrp == pytest.approx(0, abs=1e-6)
    assert found.found.all() and not found.images and not found.suspects
    assert found.overall.f1 == 1 and all(point.f1 == 1 for point in found.points)
    (line,) = advise(found)
    assert line.startswith("Threshold 1.00 for all classes gives the highest F1, 1.00")


def test_small_objects_that_are_missed_are_named_first():
    ground_truth, results = perfect(2, images=300)
    for annotation in ground_truth["annotations"]:
        if annotation["id"] % 3 == 0:
            annotation["bbox"][2:], annotation["area"] = [20, 20], 400
    large = {tuple(a["bbox"]) for a in ground_truth["annotations"] if a["area"] > 1024}
    found = errors.analyse(ground_truth, [row for row in results if tuple(row["bbox"]) in large])
    (line,) = [line for line in advise(found) if "of all misses" in line]
    assert "small (under 32x32)" in line and "data.scales" in line
    small = next(group for group in found.groups if group.name.startswith("small"))
    assert small.missed >= 0.9 * small.objects


def test_a_swapped_class_is_the_most_confused_pair():
    ground_truth, results = perfect(3)
    for row in results:
        row["category_id"] = 9 if row["category_id"] == 7 else row["category_id"]
    found = errors.analyse(ground_truth, results)
    written = errors.as_json(found, [])
    assert written["most_confused"][0] | {"count": 0} == {"object": "class 7", "detection": "class 9", "count": 0}
    assert any(line.startswith("'class 7' is most often taken for 'class 9'") for line in advise(found))
    assert written["tide"]["Cls"] == max(written["tide"][name] for name in written["tide_counts"])


def test_annotations_that_were_removed_or_renamed_are_suspected():
    ground_truth, results = perfect(4)
    for number, row in enumerate(results):
        row["score"] = 0.99 - number / 1000
    rows = ground_truth["annotations"]
    removed = rows.pop(5)
    rows[10]["category_id"] = 3 if rows[10]["category_id"] != 3 else 7
    rows[20]["bbox"][0] -= 0.6 * rows[20]["bbox"][2]
    found = errors.analyse(ground_truth, results)
    suspects = {row["kind"]: row for row in errors.as_json(found, [])["suspects"]}
    assert suspects["missing"]["image_id"] == removed["image_id"] and suspects["missing"]["annotated"] is None
    np.testing.assert_allclose(suspects["missing"]["detected_bbox"], removed["bbox"])
    assert suspects["class"]["annotated_bbox"] == rows[10]["bbox"]
    assert suspects["box"]["annotated_bbox"] == rows[20]["bbox"]
    assert any("suspects.csv" in line and "1 likely missing" in line for line in advise(found))
    assert find_suspects(found.pairing._replace(scores=found.pairing.scores / 3), found.tide) == []  # none is sure


def test_the_worst_image_is_the_one_with_the_errors():
    ground_truth, results = perfect(5)
    most = max(
        {a["image_id"] for a in ground_truth["annotations"]}, key=lambda i: sum(r["image_id"] == i for r in results)
    )
    gone = [row for row in results if row["image_id"] == most]
    results = [row for row in results if row["image_id"] != most]
    found = errors.analyse(ground_truth, [*results, {**gone[0], "bbox": [300, 200, 9, 9], "score": 1.0}])
    first = errors.as_json(found, [])["worst_images"][0]
    wanted = {"image_id": most, "file_name": f"{most}.jpg", "false_positives": 1, "missed": len(gone)}
    assert first == wanted


def test_overconfident_scores_are_spoken_of():
    ground_truth, results = random_set(6, images=400)
    for row in results:
        row["score"] = 0.9 + row["score"] / 10
    (line,) = [line for line in advise(errors.analyse(ground_truth, results)) if line.startswith("Scores are")]
    assert "too high" in line and "calibration.json" in line


@pytest.mark.parametrize("case", ["no detections", "no objects", "neither"])
def test_nothing_is_an_answer_too(case, tmp_path):
    ground_truth, results = random_set(7)
    if case != "no detections":
        ground_truth = {**ground_truth, "annotations": []}
    found = errors.analyse(ground_truth, results if case == "no objects" else [])
    (line,) = advise(found)
    assert ("no detections" in line) == (case == "no detections")
    errors.write_errors(found, [line], tmp_path)
    error_plots.draw_all(found, tmp_path)
    assert json.loads((tmp_path / "errors.json").read_text())["advice"] == [line]


def test_what_is_written_can_be_read(tmp_path):
    ground_truth, results = random_set(8)
    ground_truth["categories"][0]["name"] = '$x_{1}$ ;"猫\n'  # names are data
    found = errors.analyse(ground_truth, results, precision=0.5)
    errors.write_errors(found, advise(found), tmp_path)
    error_plots.draw_all(found, tmp_path)
    written = json.loads((tmp_path / "errors.json").read_text())
    metrics = coco_eval.evaluate(ground_truth, results)
    assert written["AP"] == metrics.AP and written["classes"][0]["name"] == ground_truth["categories"][0]["name"]
    assert set(written["tide"]) == {"Cls", "Loc", "Both", "Dupe", "Bkg", "Miss", "FP", "FN"}
    matrix = written["confusion_matrix"]
    assert np.array(matrix["counts"]).shape == (5, 5) and matrix["classes"][-1] == "background"
    assert sum(row["count"] for row in written["calibration"]["bins"]) == len(results)
    thresholds = json.loads((tmp_path / "thresholds.json").read_text())
    for row, point in zip(thresholds["classes"], found.points, strict=True):
        assert row["best_f1"] == point.threshold
    with (tmp_path / "per_class.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row["name"] for row in ground_truth["categories"]]
    with (tmp_path / "confusion_matrix.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert [list(map(int, row[1:])) for row in table[1:]] == matrix["counts"]
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("tide.png", "confusion_matrix.png", "curves.png", "calibration.png", "misses.png")
    }
    assert not list(tmp_path.glob(".*"))
