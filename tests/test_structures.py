"""``Detections`` as a user meets them."""

import pickle

import jax
import numpy as np
import pytest
from PIL import Image

from detr_jax import drawing
from detr_jax.structures import Categories, Detection, Detections, Features, Photos, View

CATEGORIES = Categories((3, 7), ("cat", "dog"))


def make(count: int = 3) -> Detections:
    boxes = np.array([[12, 30, 240, 310]], np.float32) + np.arange(count, dtype=np.float32)[:, None]
    scores = np.linspace(0.98, 0.1, count).astype(np.float32)
    return Detections(boxes, scores, np.arange(count) % 2, CATEGORIES)


def test_it_is_a_sequence_of_detections():
    found = make()
    assert len(found) == 3 and len(list(found)) == 3
    first = next(iter(found))
    assert first == found[0] == Detection((12.0, 30.0, 240.0, 310.0), pytest.approx(0.98), 0, "cat")
    assert [one.name for one in found] == found.names == ["cat", "dog", "cat"]
    assert found[-1].box_xyxy == (14.0, 32.0, 242.0, 312.0)
    with pytest.raises(IndexError):
        found[3]
    assert not len(make(0)) and list(make(0)) == []


def test_it_reads_well():
    assert repr(make(1)) == "1 detection: cat 0.98 at (12, 30, 240, 310)"
    assert repr(make(2)) == "2 detections: cat 0.98 at (12, 30, 240, 310), dog 0.10 at (13, 31, 241, 311)"
    assert repr(make(9)).endswith(", and 4 more") and repr(make(9)).count(" at ") == 5
    assert repr(make(0)) == "0 detections"


def test_equality_and_pickling():
    assert make() == make() == pickle.loads(pickle.dumps(make()))
    assert make() != make(2) and make() != make().best(2) and make() != "text"
    other = Detections(make().boxes_xyxy, make().scores, make().labels, Categories((3, 8), ("cat", "dog")))
    assert make() != other


def test_parts():
    found = make(5)
    assert found.best(2) == found.take(slice(2)) == found.take(np.array([0, 1]))
    sure = found.above(float(found.scores[1]))
    assert sure == found.best(2) and len(found.above(2.0)) == 0 and len(found.best(99)) == 5
    assert [row["category_id"] for row in found.to_coco(4)] == [3, 7, 3, 7, 3]
    assert found.to_coco(4)[0] == {
        "image_id": 4, "category_id": 3, "bbox": [12.0, 30.0, 228.0, 280.0], "score": pytest.approx(0.98)
    }  # fmt: skip


def test_draw_takes_what_the_detector_takes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (330, 400, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = make()
    wanted = drawing.draw_boxes(pixels, found.boxes_xyxy, ["cat 0.98", "dog 0.54", "cat 0.10"], [0, 1, 0])
    given = [tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), pixels]
    for one in (*given, Image.fromarray(pixels)):
        drawn = found.draw(one)
        assert isinstance(drawn, Image.Image)
        np.testing.assert_array_equal(np.asarray(drawn), wanted)
    np.testing.assert_array_equal(np.asarray(make(0).draw(pixels)), pixels)


def test_what_is_static_is_no_leaf():
    view = View(*(np.zeros((1, *shape), np.int32) for shape in ((), (2,), (4,), (2,))))
    photos = Photos(np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 2), np.int32), view, (32, 64), 600)
    assert len(jax.tree.leaves(photos)) == 6
    assert jax.tree.map(lambda leaf: leaf, photos).canvas == (32, 64)
    features = Features(np.zeros((1, 2, 2, 3), np.float32), np.zeros((1, 2), np.int32), 3)
    assert len(jax.tree.leaves(features)) == 2 and jax.tree.map(lambda leaf: leaf, features).stage == 3
