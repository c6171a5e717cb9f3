"""Error types, their costs, the confusion matrix and the calibration error are hotcoco's, run side by side."""

import contextlib
import io
import json

import numpy as np
import pytest
from hotcoco import COCO, COCOeval

from detr_jax.evaluation.calibration import detection_reliability
from detr_jax.evaluation.confusion import confusion_matrix
from detr_jax.evaluation.tide import find_errors
from tests.evaluation.random_results import pair_up, random_set


@pytest.mark.parametrize("seed", [101, 102, 103])
def test_error_types_are_those_of_hotcoco(tmp_path, differences, seed):
    ground_truth, results = random_set(seed, classes=3 + seed % 3)  # without crowds, for which it has another rule
    for name, content in (("gt", ground_truth), ("dt", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "gt.json"))
        peer = COCOeval(truth, truth.load_res(str(tmp_path / "dt.json")), "bbox")
        peer.evaluate()
        peer.accumulate()
        types, matrix = peer.tide_errors(), peer.confusion_matrix(iou_thr=0.5)["matrix"]
        error = peer.calibration(n_bins=10)["ece"]
    pairing, classes = pair_up(ground_truth, results)
    found = find_errors(pairing, classes)
    for kind, cost in types["delta_ap"].items():
        differences("cost of an error type (AP50, 0 to 1)", abs(found.costs[kind] - cost))
        assert abs(found.costs[kind] - cost) < 1e-6, kind
    assert {kind: found.counts[kind] for kind in types["counts"]} == types["counts"]
    np.testing.assert_array_equal(confusion_matrix(pairing, classes), np.asarray(matrix).astype(int))
    differences("calibration error", abs(detection_reliability(pairing).error - error))
    assert abs(detection_reliability(pairing).error - error) < 1e-6
