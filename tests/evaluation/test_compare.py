"""Detectors side by side: each measured as alone, differences beyond chance found, and nothing else called one."""

import json

import numpy as np
import pytest

from detr_jax.evaluation import coco_eval, compare, errors
from detr_jax.evaluation.compare import FEWEST_IMAGES, Interval, measure_detector, set_up
from detr_jax.evaluation.verdicts import judge, verdict
from tests.evaluation.random_results import random_set


def jitter(results: list[dict], seed: int, share: float) -> list[dict]:
    """The same detections with boxes and scores that are a little off."""
    rng = np.random.default_rng(seed)

    def move(row: dict) -> dict:
        box = np.array(row["bbox"]) + rng.normal(0, share, 4) * np.tile(row["bbox"][2:], 2)
        box[2:] = np.maximum(box[2:], 1.0)
        return {**row, "bbox": box.tolist(), "score": float(np.clip(row["score"] + rng.normal(0, share), 0, 1))}

    return [move(row) for row in results]


def compare_all(ground_truth: dict, draws: int = 100, seed: int = 0, **results: list[dict]):
    bench = set_up(ground_truth, draws, seed)
    return compare.compare(bench, [measure_detector(bench, name, rows) for name, rows in results.items()])


def test_each_is_measured_as_alone():
    ground_truth, results = random_set(1)
    found = compare_all(ground_truth, a=results, b=jitter(results, 0, 0.1))
    for detector, rows in zip(found.detectors, (results, jitter(results, 0, 0.1)), strict=True):
        alone = errors.analyse(ground_truth, rows)
        assert detector.metrics.numbers == alone.metrics.numbers == coco_eval.evaluate(ground_truth, rows).numbers
        assert detector.tide.costs == alone.tide.costs and detector.mean_lrp == alone.mean_lrp
        assert detector.detection_error == alone.reliability.error
        assert detector.localisation_error == alone.localisation_error
        assert detector.errors.sum() == sum(image.errors for image in alone.images)


def test_the_order_of_detectors_changes_signs_alone():
    ground_truth, results = random_set(2)
    worse = jitter(results, 0, 0.15)
    (one,) = compare_all(ground_truth, a=results, b=worse).differences
    (other,) = compare_all(ground_truth, b=worse, a=results).differences
    turned = other.reversed()
    assert (one.name, one.minus) == (turned.name, turned.minus) == ("b", "a")
    for key, interval in one.numbers.items():
        np.testing.assert_allclose(interval, turned.numbers[key], atol=1e-12, err_msg=key)
    np.testing.assert_array_equal(one.images, turned.images)


def test_equal_detectors_do_not_differ():
    ground_truth, results = random_set(3)
    found = compare_all(ground_truth, a=results, b=list(reversed(results)))
    (difference,) = found.differences
    for interval in difference.numbers.values():
        np.testing.assert_allclose(np.nan_to_num(interval), 0.0, atol=1e-12)
    assert not difference.images.any() and difference.best_classes() == []
    assert any("no difference that 60 images can show" in line for line in judge(found, {}))


def test_a_clear_difference_is_told_with_its_interval():
    ground_truth, results = random_set(4, images=200)
    worse = jitter([row for row in results if row["image_id"] % 3], 0, 0.1)
    found = compare_all(ground_truth, good=results, bad=worse)
    (difference,) = found.differences
    assert difference.numbers["AP"].sign == -1 and difference.numbers["AP"].estimate < 0
    said = judge(found, {})
    assert any(line.startswith("good is better than bad: ") and "95 % interval" in line for line in said)
    assert any(line.startswith("bad has results for ") and "unfair" in line for line in said)


@pytest.mark.slow
def test_intervals_hold_the_truth_of_a_large_population():
    """Of 60 samples of 150 images each, the intervals of the difference hold that of all 3,000 images in most."""
    ground_truth, results = random_set(5, images=3000)
    worse = jitter(results, 1, 0.08)
    (whole,) = compare_all(ground_truth, draws=2, a=results, b=worse).differences
    held, rng = 0, np.random.default_rng(0)
    for _ in range(60):
        chosen = set(rng.choice(np.arange(1, 3001), 150, replace=False).tolist())
        part = {
            **ground_truth,
            "images": [row for row in ground_truth["images"] if row["id"] in chosen],
            "annotations": [row for row in ground_truth["annotations"] if row["image_id"] in chosen],
        }
        rows = ([row for row in detector if row["image_id"] in chosen] for detector in (results, worse))
        (difference,) = compare_all(part, **dict(zip("ab", rows, strict=True))).differences
        interval = difference.numbers["AP"]
        held += interval.low <= whole.numbers["AP"].estimate <= interval.high
    assert held >= 51  # 57 are expected; fewer than 51 come once in a thousand times


def test_few_images_of_a_class_tell_nothing():
    ground_truth, results = random_set(6, images=FEWEST_IMAGES - 1)
    (difference,) = compare_all(ground_truth, a=results, b=jitter(results, 0, 0.3)).differences
    for interval in difference.classes:
        assert np.isnan(interval.low) and interval.sign == 0
        assert "too few to tell" in verdict(interval, "b", "a", FEWEST_IMAGES - 1) or np.isnan(interval.estimate)


def test_images_and_classes_where_one_is_better_are_found():
    ground_truth, _ = random_set(8, images=150)
    results = coco_eval.ground_truth_as_results(ground_truth)
    spoiled = [row for row in results if row["category_id"] != 7 and row["image_id"] != 4]
    (difference,) = compare_all(ground_truth, whole=results, spoiled=spoiled).differences
    better = difference.reversed()
    assert better.best_classes() == [1] and difference.best_classes() == []
    lost = {row["image_id"] for row in results if row["category_id"] == 7 or row["image_id"] == 4}
    assert {image + 1 for image in better.best_images(1000)} == lost and difference.best_images(5) == []


def test_a_tiny_difference_that_is_sure_is_told_with_its_digits():
    ground_truth, results = random_set(9)
    found = compare_all(ground_truth, a=results, b=results)
    sure = found.differences[0]._replace(numbers={"AP": Interval(-0.0003, -0.0005, -0.0001)})
    said = judge(found._replace(differences=[sure]), {})
    assert said[0] == "a is better than b: 0.030 AP more (95 % interval 0.010 to 0.050)."


@pytest.mark.parametrize("case", ["no objects", "one image", "no image"])
def test_where_nothing_can_be_compared_nothing_is_claimed(case):
    ground_truth, results = random_set(5)
    ids = {"no objects": set(range(1, 61)), "one image": {2}, "no image": set()}[case]
    ground_truth["images"] = [image for image in ground_truth["images"] if image["id"] in ids]
    ground_truth["annotations"] = [
        row for row in ground_truth["annotations"] if row["image_id"] in ids and case == "one image"
    ]
    results = [row for row in results if row["image_id"] in ids]
    found = compare_all(ground_truth, some=results, none=[])
    said = judge(found, {})
    assert not any("is better than" in line for line in said)
    assert any("none has no detections: AP 0" in line for line in said)


def test_nothing_detected_is_said():
    ground_truth, results = random_set(7)
    found = compare_all(ground_truth, a=results, b=[])
    assert found.detectors[1].metrics.AP == 0 and any("b has no detections" in line for line in judge(found, {}))


def test_two_detectors_on_real_photos(real_data):
    ground_truth = json.loads((real_data / "coco128/annotations/instances_train2017.json").read_text())
    results = json.loads((real_data / "evaluator/yolox_nano/dets_coco128_train.json").read_text())
    found = compare_all(ground_truth, yolox=results, jittered=jitter(results, 0, 0.04))
    assert abs(found.detectors[0].metrics.AP - 0.3391) < 1e-4
    (difference,) = found.differences
    assert difference.numbers["AP"].sign == -1
    best = difference.reversed().best_images(3)
    assert best and all(difference.images[image] < 0 for image in best)
