"""Detections and objects are paired as COCO does at IoU 0.5; crowds excuse, and only the best of an image count."""

import numpy as np
import pytest

from detr_jax.evaluation import coco_eval
from tests.evaluation.random_results import pair_up, random_set


@pytest.mark.parametrize("seed", range(5))
def test_what_is_found_is_what_coco_finds(seed):
    ground_truth, results = random_set(seed, crowds=True)
    pairing, _ = pair_up(ground_truth, results)
    metrics = coco_eval.evaluate(ground_truth, results)
    assert abs(pairing.hit_iou[pairing.correct].mean() - metrics.mean_iou) < 1e-9
    assert pairing.found.sum() == pairing.correct.sum() > 10
    np.testing.assert_array_equal(pairing.found_by[pairing.hits[pairing.correct]], np.flatnonzero(pairing.correct))


def one_image(objects: list[dict], detections: list[dict]):
    ground_truth = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
    rows = [{"id": n, "image_id": 1, "area": 1, "iscrowd": 0, **row} for n, row in enumerate(objects)]
    return pair_up({**ground_truth, "annotations": rows}, [{"image_id": 1, **row} for row in detections])[0]


def test_a_detection_in_a_crowd_of_its_class_is_ignored():
    crowd = {"category_id": 1, "bbox": [0, 0, 100, 100], "iscrowd": 1}
    inside = {"bbox": [10, 10, 5, 5], "score": 0.5}
    pairing = one_image([crowd], [{**inside, "category_id": 1}, {**inside, "category_id": 2}])
    assert pairing.ignored.tolist() == [True, False] and len(pairing.objects.labels) == 0


def test_the_higher_score_takes_the_object_and_classes_may_be_left_aside():
    thing = {"category_id": 1, "bbox": [0, 0, 10, 10]}
    rows = [
        {"category_id": c, "bbox": [0, 0, 10, w], "score": s} for c, w, s in ((1, 9, 0.2), (1, 6, 0.8), (2, 10, 0.9))
    ]
    pairing = one_image([thing], rows)
    assert pairing.rows.tolist() == [2, 1, 0]  # by score
    assert pairing.hits.tolist() == [-1, 0, -1] and pairing.first_come.tolist() == [0, -1, -1]
    np.testing.assert_allclose(pairing.own_iou, [0, 0.6, 0.9])
    np.testing.assert_allclose(pairing.other_iou, [1.0, 0, 0])
    assert pairing.own.tolist() == [-1, 0, 0] and pairing.other.tolist() == [0, -1, -1]


def test_the_best_hundred_of_an_image_count():
    ground_truth, _ = random_set(1, images=2)
    rows = [{"image_id": 2, "category_id": 3, "bbox": [0, 0, 9, 9], "score": n / 200} for n in range(150)]
    pairing, _ = pair_up(ground_truth, rows)
    assert pairing.rows.tolist() == list(range(149, 49, -1))
