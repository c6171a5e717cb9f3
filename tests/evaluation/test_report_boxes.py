"""The boxes of the page, counted by a loop, give the figures of the analysis."""

import numpy as np
import pytest

from detr_jax.evaluation import errors, examples
from detr_jax.evaluation.report import Compared, report_data
from detr_jax.evaluation.tide import TYPES
from tests.evaluation.random_results import random_set


def read_images(found: errors.Analysis) -> list[tuple[dict, np.ndarray, np.ndarray]]:
    """Each image of the page with its objects and detections as rows."""
    shown = examples.list_examples(found, examples.rank_examples(found))
    images = report_data(found, [], shown, Compared("gt.json", "dt.json", None))["example_images"]
    return [
        (
            image,
            np.array(image["objects"], int).reshape(-1, len(examples.OBJECT)),
            np.array(image["detections"], int).reshape(-1, len(examples.DETECTION)),
        )
        for image in images
    ]


@pytest.mark.parametrize("crowds", [False, True])
def test_boxes_give_the_counts_and_the_matrix(crowds):
    found = errors.analyse(*random_set(4, images=120, crowds=crowds))
    counts, not_found = np.zeros(len(TYPES), int), 0
    cells, background = np.zeros_like(found.confusion), len(found.names)
    images = read_images(found)
    assert sorted(image["image_id"] for image, _, _ in images) == found.image_ids
    for image, objects, detections in images:
        taken, not_found = set(), not_found + int((objects[:, 5] != examples.FOUND).sum())
        for label, kind, takes in detections[: image["shown"], [4, 6, 7]].tolist():
            counts[kind] += kind >= 0
            cells[objects[takes, 4] if takes >= 0 else background, label] += 1
            taken.add(takes)
        for row in set(range(len(objects))) - taken:
            cells[objects[row, 4], background] += 1
    wanted = found.counts_at_thresholds
    assert counts.tolist()[:5] == [wanted[name] for name in TYPES[:5]] and not_found == wanted["FN"]
    np.testing.assert_array_equal(cells, found.confusion_at_thresholds)


def test_a_detection_has_the_iou_with_what_it_is_compared_with():
    for _, objects, detections in read_images(errors.analyse(*random_set(5))):
        for x, y, w, h, label, _, kind, _, aim, iou in detections.tolist():
            if aim < 0:
                assert TYPES[kind] in ("Both", "Bkg")
                continue
            a, b, c, d, other, _ = objects[aim].tolist()
            inside = max(0, min(x + w, a + c) - max(x, a)) * max(0, min(y + h, b + d) - max(y, b))
            assert iou == pytest.approx(100 * inside / (w * h + c * d - inside), abs=1.5)
            assert (label != other) == (kind == TYPES.index("Cls"))
