"""A threshold for each class: by name, of equal names by id, and the default where there is none."""

import json

import numpy as np
import pytest

from detr_jax.errors import UserError
from detr_jax.inference.thresholds import read_thresholds
from detr_jax.structures import Categories, Detections

ROWS = [
    {"id": 1, "name": "cat", "best_f1": 0.3, "precise": 0.8},
    {"id": 2, "name": "dog", "best_f1": None, "precise": None},
    {"id": 3, "name": "bat", "best_f1": 0.4, "precise": 0.9},
    {"id": 4, "name": "bat", "best_f1": 0.6, "precise": None},
]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps({"classes": ROWS}))
    return path


def test_by_name_and_of_equal_names_by_id(path):
    model = Categories((4, 7, 8, 9), ("bat", "cat", "dog", "emu"))
    assert read_thresholds(path, model, 0.5).tolist() == [0.6, 0.3, 0.5, 0.5]
    assert read_thresholds(path, model, 0.5, "precise").tolist() == [0.9, 0.8, 0.5, 0.5]


def test_detections_are_cut_at_that_of_their_class():
    categories = Categories((1, 2), ("cat", "dog"))
    boxes, scores, labels = np.zeros((3, 4), np.float32), np.array([0.9, 0.5, 0.4], np.float32), np.array([0, 1, 0])
    found = Detections(boxes, scores, labels, categories)
    assert found.above(np.array([0.95, 0.2])).labels.tolist() == [1] and len(found.above(0.45)) == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"classes": [{"id": 1}]}', '{"classes": 3}'])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="--thresholds=.*cannot be read.*analyze errors"):
        read_thresholds(tmp_path / "x.json", Categories((1,), ("cat",)), 0.5)


def test_other_classes_are_refused(path):
    with pytest.raises(UserError, match="other classes than those of the model: emu"):
        read_thresholds(path, Categories((1,), ("emu",)), 0.5)
