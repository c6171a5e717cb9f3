"""Calibration errors equal hotcoco's and a loop; isotonic regression corrects scores on images it has not seen."""

import numpy as np
import pytest

from detr_jax.evaluation import calibration
from tests.evaluation.random_results import pair_up, random_set
from tests.evaluation.test_tide import GOLDEN, random_of


@pytest.mark.parametrize("seed", GOLDEN)
def test_the_error_is_that_of_hotcoco(seed):
    pairing, _ = pair_up(*random_of(seed))
    assert abs(calibration.detection_reliability(pairing).error - GOLDEN[seed]["ece"]) < 1e-9


def test_localisation_error_equals_a_loop():
    pairing, classes = pair_up(*random_set(4))
    errors = []
    for k in range(classes):
        rows, total = np.flatnonzero(pairing.detections.labels == k), 0.0
        for low in np.arange(25) / 25:
            inside = [row for row in rows if low <= pairing.scores[row] < low + 1 / 25]
            if inside:
                overlap = np.mean([pairing.hit_iou[row] for row in inside])
                total += len(inside) * abs(np.mean(pairing.scores[inside]) - overlap)
        errors.append(total / len(rows))
    assert calibration.localisation_error(pairing, classes) == pytest.approx(np.mean(errors))


def test_scores_at_the_ends_have_a_bin():
    bins = calibration.reliability(np.array([0.0, 1.0, 0.1]), np.array([0.0, 1.0, 1.0]))
    assert bins.counts.sum() == 3 and bins.counts[[0, 1, 9]].tolist() == [1, 1, 1]
    assert calibration.reliability(np.zeros(0), np.zeros(0)).error == 0.0


def test_overconfident_scores_are_corrected_on_other_images():
    """Scores that are the square root of the truth: half of the images are enough to learn it for the others."""
    ground_truth, results = random_set(6, classes=2, images=1500)
    pairing, classes = pair_up(ground_truth, results)
    rng = np.random.default_rng(0)
    truth = rng.random(len(pairing.scores))
    hits = np.where(rng.random(len(truth)) < truth, 0, -1)
    found = calibration.recalibrate(pairing._replace(scores=np.sqrt(truth), hits=hits), classes)
    assert found.before > 0.14 and found.after < 0.04
    for knots in found.knots:
        scores, values = np.array(knots).T
        assert (np.diff(scores) > 0).all() and (np.diff(values) >= 0).all() and 0 <= values.min() <= values.max() <= 1
        np.testing.assert_allclose(calibration.correct_scores(knots, np.array([0.5])), [0.25], atol=0.08)


def test_a_class_without_detections_keeps_its_scores():
    pairing, classes = pair_up(random_set(6, classes=2)[0], [])
    assert calibration.recalibrate(pairing, classes).knots == [[], []]
    assert calibration.correct_scores([], np.array([0.3])).tolist() == [0.3]
