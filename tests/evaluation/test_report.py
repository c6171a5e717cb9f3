"""What report.html shows is what the analysis says."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from detr_jax.benchmarks.evaluation import make_results
from detr_jax.evaluation import advice, errors, report
from detr_jax.evaluation.report import Compared
from detr_jax.evaluation.tide import MEANINGS
from tests.evaluation.random_results import random_set

LIMIT = 15_000_000  # bytes


def write(ground_truth, results, folder, photos=None):
    found = errors.analyse(ground_truth, results)
    source = Compared("gt.json", "dt.json", photos)
    notes = report.write_report(found, advice.advise(found), source, folder / "report.html")
    text = (folder / "report.html").read_text(encoding="utf-8")
    return found, json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', text, re.S)[1]), notes, text


def test_figures_cells_and_curves(tmp_path):
    found, data, notes, _ = write(*random_set(1), tmp_path)
    assert data["AP"] == found.metrics.AP and data["tide"].keys() == MEANINGS.keys() and notes == []
    matrix = np.zeros((2, 5, 5), int)
    for row, column, *counts in data["cells"]:
        matrix[:, row, column] = counts
    np.testing.assert_array_equal(matrix, [found.confusion_at_thresholds, found.confusion])
    for points, curve in zip(data["curves"], found.curves, strict=True):
        assert points[0][0] == pytest.approx(curve.scores[0], abs=1e-4) and len(points) <= len(curve.scores)
        assert max(point[3] for point in points) == pytest.approx(curve.f1.max(), abs=1e-4)


def test_every_image_of_a_small_set_with_all_its_errors(tmp_path):
    found, data, _, _ = write(*random_set(2), tmp_path)
    assert len(data["example_images"]) == 60
    kinds = {"wrong": 0, "missed": 0}
    for image in data["example_images"]:
        detections = np.array(image["detections"]).reshape(-1, 10)[: image["shown"]]
        kinds["wrong"] += int((detections[:, 6] >= 0).sum())
        kinds["missed"] += int((np.array(image["objects"]).reshape(-1, 6)[:, 5] != 2).sum())
    assert kinds == {"wrong": found.counts_at_thresholds["FP"], "missed": found.counts_at_thresholds["FN"]}
    assert kinds["wrong"] + kinds["missed"] == sum(image.errors for image in found.images)


def test_photos_are_shown_and_what_is_missing_is_said(tmp_path):
    ground_truth, results = random_set(3, images=4)
    for image_id in (1, 2):
        Image.fromarray(np.full((240, 320, 3), 90 * image_id, np.uint8)).save(tmp_path / f"{image_id}.jpg")
    (tmp_path / "3.jpg").write_bytes(b"no photo")
    _, data, (note,), text = write(ground_truth, results, tmp_path, tmp_path)
    assert len(data["pictures"]) == 2 and text.count("data:image/jpeg") == 2
    assert note.startswith("2 photos are not shown: ") and "3.jpg" in note and "4.jpg: does not exist" in note


def test_photos_outside_the_folder_are_not_read(tmp_path):
    ground_truth, results = random_set(4, images=1)
    Image.fromarray(np.zeros((240, 320, 3), np.uint8)).save(tmp_path / "secret.jpg")
    ground_truth["images"][0]["file_name"] = "../secret.jpg"
    (tmp_path / "photos").mkdir()
    _, data, (note,), _ = write(ground_truth, results, tmp_path, tmp_path / "photos")
    assert data["pictures"] == [] and "is not below the folder of the photos" in note


def test_nothing_at_all(tmp_path):
    ground_truth, _ = random_set(5)
    found, data, _, _ = write(ground_truth, [], tmp_path)
    assert data["AP"] == 0 and len(data["suspects"]) == 0
    _, data, _, _ = write({**ground_truth, "annotations": []}, [], tmp_path)
    assert data["AP"] == -1


@pytest.mark.slow
def test_five_thousand_images_are_one_file_of_moderate_size(tmp_path):
    ground_truth, results = make_results(5000, 100, 0)
    _, data, _, text = write(ground_truth, results, tmp_path)
    assert len(text) < LIMIT and data["images"] == 5000 and 300 < len(data["example_images"]) <= 5000
