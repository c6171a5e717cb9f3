"""The numbers of a draw are pycocotools' on a dataset in which the drawn images really are repeated."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr_jax.evaluation import coco_eval
from detr_jax.evaluation.average_precision import match_all
from detr_jax.evaluation.bootstrap import NUMBERS, draw_images, score_draws
from tests.evaluation.random_results import random_set

IMAGES = 30


def draws_of(ground_truth: dict, results: list[dict], weights: np.ndarray):
    truth = coco_eval.read_truth(ground_truth)
    detections, scores = coco_eval.read_detections(truth, results, "bbox")
    return score_draws(match_all(truth.objects, truth.crowds, detections, scores), len(truth.classes), weights)


def repeated(ground_truth: dict, results: list[dict], weights: np.ndarray) -> tuple[dict, list[dict]]:
    """A dataset with as many copies of each image as it weighs, under new ids."""
    images, annotations, found, number = [], [], [], 0
    for image, weight in zip(ground_truth["images"], weights, strict=True):
        for _ in range(weight):
            number += 1
            images.append({**image, "id": number})
            for annotation in ground_truth["annotations"]:
                if annotation["image_id"] == image["id"]:
                    annotations.append({**annotation, "image_id": number, "id": len(annotations) + 1})
            found += [{**row, "image_id": number} for row in results if row["image_id"] == image["id"]]
    return {**ground_truth, "images": images, "annotations": annotations}, found


def pycocotools(ground_truth: dict, results: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """(the first six numbers, AP of each class)."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][..., 0, -1]
    return evaluation.stats[:6], np.array([precision[:, :, k].mean() for k in range(precision.shape[2])])


@pytest.mark.parametrize("seed", range(6))
def test_a_draw_is_the_evaluation_of_the_repeated_images(seed):
    ground_truth, results = random_set(seed, images=IMAGES, crowds=seed % 2 == 0)
    weights = draw_images(IMAGES, 4, seed)
    drawn = draws_of(ground_truth, results, weights)
    for draw in range(4):
        numbers, classes = pycocotools(*repeated(ground_truth, results, weights[:, draw]))
        np.testing.assert_allclose(np.nan_to_num(drawn.numbers[draw], nan=-1), numbers, rtol=0, atol=1e-9)
        np.testing.assert_allclose(np.nan_to_num(drawn.classes[draw], nan=-1), classes, rtol=0, atol=1e-9)


def test_every_image_once_is_the_evaluation_itself():
    ground_truth, results = random_set(7, images=IMAGES)
    metrics = coco_eval.evaluate(ground_truth, results)
    (numbers,) = draws_of(ground_truth, results, np.ones((IMAGES, 1), int)).numbers
    assert numbers == pytest.approx([getattr(metrics, name) for name in NUMBERS], abs=1e-12)


def test_a_draw_without_objects_has_no_numbers():
    ground_truth, results = random_set(8, images=IMAGES)
    empty = {image["id"] for image in ground_truth["images"]} - {row["image_id"] for row in ground_truth["annotations"]}
    weights = np.array([[image["id"] in empty] for image in ground_truth["images"]], int)
    drawn = draws_of(ground_truth, results, weights)
    assert weights.any() and np.isnan(drawn.numbers).all() and np.isnan(drawn.classes).all()


def test_many_objects_of_a_class_are_taken_in_parts(monkeypatch):
    ground_truth, results = random_set(9, images=IMAGES)
    weights = draw_images(IMAGES, 7, 0)
    whole = draws_of(ground_truth, results, weights)
    monkeypatch.setattr("detr_jax.evaluation.bootstrap.AT_ONCE", 1)
    for one, other in zip(whole, draws_of(ground_truth, results, weights), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)


def test_no_image_has_no_draw():
    assert draw_images(0, 5, 1).shape == (0, 5)


def test_draws_have_as_many_images_and_follow_the_seed():
    weights = draw_images(50, 9, 3)
    assert weights.shape == (50, 9) and (weights.sum(axis=0) == 50).all()
    np.testing.assert_array_equal(weights, draw_images(50, 9, 3))
    assert (weights != draw_images(50, 9, 4)).any()
