"""Error types and their costs equal those of tidecv and hotcoco, and a slow loop over every pair."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_api

from detr_jax.evaluation import coco_eval, tide
from detr_jax.evaluation.tide import CORRECT, TYPES, find_errors
from tests.evaluation.random_results import pair_up, random_set

# AP50, costs and counts of tidecv 1.0.1, confusion matrix and calibration error of hotcoco 1.3.0 on ``random_set``.
# tidecv was run with COCO's recall levels (np.linspace(0, 1, 101)); its own (x / 100) differ in their last bits, which
# decides which of two precisions counts where a recall is a multiple of 0.01. Without crowds hotcoco agrees to 1e-9.
GOLDEN = json.loads((Path(__file__).parent / "tide_golden.json").read_text())


def random_of(seed: str) -> tuple[dict, list[dict]]:
    row = GOLDEN[seed]
    return random_set(int(seed), row["classes"], crowds=row.get("crowds", False))


@pytest.mark.parametrize("seed", GOLDEN)
def test_costs_equal_those_of_tidecv(seed):
    found, wanted = find_errors(*pair_up(*random_of(seed))), GOLDEN[seed]
    assert abs(100 * found.AP50 - wanted["AP50"]) < 1e-6
    assert found.costs.keys() == wanted["costs"].keys() == tide.MEANINGS.keys()
    for name, cost in wanted["costs"].items():
        assert abs(100 * found.costs[name] - cost) < 1e-6, name
    assert found.counts == wanted["counts"]


def test_the_shared_set(real_data):
    ground_truth = json.loads((real_data / "tide/gt.json").read_text())
    results = json.loads((real_data / "tide/dt.json").read_text())
    oracle = json.loads((real_data / "tide/oracle.json").read_text())["tide"]
    found = find_errors(*pair_up(ground_truth, results))
    for name, cost in oracle["delta_ap"].items():
        assert abs(found.costs[name] - cost) < 1e-6, name
    assert found.counts == oracle["counts"]


@pytest.mark.parametrize("seed", range(20, 26))
def test_ap50_is_that_of_the_evaluation(seed):
    ground_truth, results = random_set(seed, crowds=seed % 2 == 0)
    assert (
        abs(find_errors(*pair_up(ground_truth, results)).AP50 - coco_eval.evaluate(ground_truth, results).AP50) < 1e-9
    )


@pytest.mark.parametrize("seed", range(30, 34))
def test_types_equal_a_loop_over_every_pair(seed):
    pairing, classes = pair_up(*random_set(seed))
    found, seen = find_errors(pairing, classes), set()
    for row, kind in enumerate(found.kinds):
        here = np.flatnonzero(pairing.objects.images == pairing.detections.images[row])
        own, other, free_own = [0.0], [0.0], [0.0]
        for target in here:
            box, truth = pairing.detections.shapes[row][None], pairing.objects.shapes[target][None]
            iou = float(mask_api.iou(box, truth, [False])[0, 0])
            same = pairing.objects.labels[target] == pairing.detections.labels[row]
            (own if same else other).append(iou)
            if same and not 0 <= pairing.found_by[target] < row:
                free_own.append(iou)
        if max(free_own) >= 0.5:
            wanted = CORRECT
        elif 0.1 <= max(own) <= 0.5:
            wanted = TYPES.index("Loc")
        elif max(other) >= 0.5:
            wanted = TYPES.index("Cls")
        elif max(own) >= 0.5:
            wanted = TYPES.index("Dupe")
        else:
            wanted = TYPES.index("Bkg" if max(own + other) <= 0.1 else "Both")
        assert kind == wanted, row
        seen.add(wanted)
    assert len(seen) == 6


def test_nothing_costs_nothing():
    """Of a perfect detector, and where there is nothing to find or nothing was found."""
    ground_truth, results = random_set(5)
    perfect = find_errors(*pair_up(ground_truth, coco_eval.ground_truth_as_results(ground_truth)))
    assert perfect.AP50 == 1.0 and not any(perfect.costs.values()) and not any(perfect.counts.values())
    empty = find_errors(*pair_up(ground_truth, []))
    assert empty.AP50 == 0 and empty.counts["Miss"] == len(ground_truth["annotations"]) and empty.missed.all()
    background = find_errors(*pair_up({**ground_truth, "annotations": []}, results))
    assert background.AP50 == 0 and background.counts["Bkg"] == len(results)


@pytest.mark.parametrize("kind", ["Cls", "Loc", "Dupe", "Bkg", "Miss"])
def test_a_seeded_error_is_what_costs_most(kind):
    ground_truth, _ = random_set(8, images=200)
    results, rng = coco_eval.ground_truth_as_results(ground_truth), np.random.default_rng(0)
    for row in results:
        row["score"] = 0.5
    for row in [row for row in results if rng.random() < 0.5]:
        row["score"] = 0.9
        x, y, width, height = row["bbox"]
        if kind == "Cls":
            row["category_id"] = {3: 7, 7: 9, 9: 12, 12: 3}[row["category_id"]]
        elif kind == "Loc":
            row["bbox"] = [x + 0.45 * width, y, width, height]
        elif kind == "Miss":
            results.remove(row)
        elif kind == "Dupe":
            results.append({**row, "score": 0.95})
        else:
            results.append({**row, "bbox": [x - 1000, y, width, height], "score": 1.0})
    costs = {name: cost for name, cost in find_errors(*pair_up(ground_truth, results)).costs.items() if name in TYPES}
    assert max(costs, key=costs.get) == kind and costs[kind] > 0.05
