"""Precision, recall, F1 and LRP of every threshold equal a loop over thresholds; the best are found."""

import numpy as np
import pytest

from detr_jax.evaluation.operating_points import best_f1, draw_curves, optimal_lrp, with_precision
from tests.evaluation.random_results import pair_up, random_set


@pytest.mark.parametrize("seed", range(4))
def test_curves_equal_a_loop_over_thresholds(seed):
    ground_truth, results = random_set(seed, crowds=True)
    for row in results:
        row["score"] = round(row["score"], 1)  # equal scores fall on one side together
    pairing, classes = pair_up(ground_truth, results)
    for k, curve in enumerate(draw_curves(pairing, classes)):
        kept = (pairing.detections.labels == k) & ~pairing.ignored
        assert curve.objects == (pairing.objects.labels == k).sum()
        assert curve.scores.tolist() == sorted(set(pairing.scores[kept].tolist()), reverse=True)
        for n, threshold in enumerate(curve.scores):
            shown = kept & (pairing.scores >= threshold)
            right = shown & pairing.correct
            false, missed = shown.sum() - right.sum(), curve.objects - right.sum()
            assert curve.precision[n] == right.sum() / shown.sum()
            assert curve.recall[n] == pytest.approx(right.sum() / curve.objects)
            lost = (1 - pairing.hit_iou[right]).sum()
            assert curve.lrp[n] == pytest.approx((2 * lost + false + missed) / (shown.sum() + missed))
            assert curve.f1[n] == pytest.approx(2 * right.sum() / (shown.sum() + curve.objects))


def test_the_best_points():
    pairing, classes = pair_up(*random_set(3))
    for curve in draw_curves(pairing, classes):
        point, lrp = best_f1(curve), optimal_lrp(curve)
        assert point.f1 == curve.f1.max() and point.threshold in curve.scores
        assert lrp.value == curve.lrp.min() <= 1
        shown = curve.scores >= lrp.threshold
        assert lrp.false_negatives == pytest.approx(1 - curve.recall[shown][-1])
        for wanted in (0.3, 0.6, 1.0):
            precise = with_precision(curve, wanted)
            enough = (curve.precision >= wanted) & (curve.recall > 0)
            assert (precise is None) == (not enough.any())
            if precise:
                assert precise.precision >= wanted and precise.recall == curve.recall[enough].max()


def test_where_nothing_is_right_or_nothing_is_there():
    ground_truth, results = random_set(3, classes=2)
    pairing, _ = pair_up({**ground_truth, "annotations": []}, results)
    curve = draw_curves(pairing, 2)[0]
    assert best_f1(curve) is None and with_precision(curve, 0.1) is None and optimal_lrp(curve) is None
    pairing, _ = pair_up(ground_truth, [])
    curve = draw_curves(pairing, 2)[0]
    assert best_f1(curve) is None and optimal_lrp(curve).value == 1.0
    assert not np.isnan(optimal_lrp(curve)).any()
