import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax.inference import postprocess
from detr_jax.structures import Categories

LOGITS = np.random.default_rng(0).normal(0, 3, (2, 5, 4)).astype(np.float32)
CATEGORIES = Categories(ids=(3, 7, 90), names=("cat", "dog", "bird"))


def by_hand(logits, boxes, size):
    """The original's rule, one query at a time in plain Python."""
    found = []
    for query, (cx, cy, w, h) in zip(logits, boxes, strict=True):
        exponentials = [np.exp(float(x)) for x in query]
        real = [e / sum(exponentials) for e in exponentials[:-1]]
        score = max(real)
        corners = [(cx - w / 2) * size[1], (cy - h / 2) * size[0], (cx + w / 2) * size[1], (cy + h / 2) * size[0]]
        found.append((score, real.index(score), corners))
    return sorted(found, key=lambda row: -row[0])


@pytest.mark.parametrize("call", [postprocess.top_class, jax.jit(postprocess.top_class)])
def test_equals_the_rule_by_hand(call):
    rng = np.random.default_rng(0)
    logits, boxes = rng.normal(size=(2, 5, 4)).astype(np.float32) * 3, rng.random((2, 5, 4), np.float32)
    scores, labels, boxes_xyxy = call(jnp.asarray(logits), jnp.asarray(boxes))
    for b, size in enumerate([(480, 640), (33, 77)]):
        found = postprocess.make_detections(scores[b], labels[b], boxes_xyxy[b], size, CATEGORIES)
        expected = by_hand(logits[b], boxes[b], size)
        np.testing.assert_allclose(found.scores, [row[0] for row in expected], rtol=1e-5)
        assert found.labels.tolist() == [row[1] for row in expected]
        np.testing.assert_allclose(found.boxes_xyxy, [row[2] for row in expected], rtol=1e-4, atol=1e-3)


def test_every_query_is_kept_even_when_no_object_is_likeliest():
    logits = jnp.array([[0.0, 1.0, 0.5, 9.0]])
    scores, labels, _ = postprocess.top_class(logits, jnp.full((1, 4), 0.5))
    assert labels.tolist() == [1] and float(scores[0]) < 0.01


def test_boxes_are_not_clipped():
    _, _, boxes_xyxy = postprocess.top_class(jnp.zeros((1, 4)), jnp.array([[0.0, 1.0, 0.5, 0.5]]))
    np.testing.assert_allclose(boxes_xyxy, [[-0.25, 0.75, 0.25, 1.25]])


def test_float32_from_bfloat16():
    scores, _, boxes_xyxy = postprocess.top_class(
        jnp.zeros((2, 3, 4), jnp.bfloat16), jnp.zeros((2, 3, 4), jnp.bfloat16)
    )
    assert scores.dtype == boxes_xyxy.dtype == jnp.float32


def test_coco_rows_have_the_datasets_ids_and_pixels():
    scores, labels = np.array([0.2, 0.9], np.float32), np.array([0, 2])
    boxes = np.array([[0, 0, 1, 1], [0.25, 0.5, 0.5, 1]], np.float32)
    rows = postprocess.make_detections(scores, labels, boxes, (100, 200), CATEGORIES).to_coco(42)
    assert [row["category_id"] for row in rows] == [90, 3]
    assert rows[0]["bbox"] == [50.0, 50.0, 50.0, 50.0] and rows[1]["bbox"] == [0.0, 0.0, 200.0, 100.0]


def test_detections_of_sigmoids_are_the_best_pairs():
    """Against a sort of all pairs in Python; a query may appear once for every class."""
    boxes = np.random.default_rng(3).uniform(0.2, 0.6, (5, 4)).astype(np.float32)
    scores, labels, boxes_xyxy = jax.jit(postprocess.top_pairs)(LOGITS[0], boxes)
    pairs = sorted(((-LOGITS[0, query, k], query, k) for query, k in np.ndindex(5, 4)))
    assert labels.tolist() == [k for _, _, k in pairs]
    np.testing.assert_allclose(scores, [1 / (1 + math.exp(value)) for value, _, _ in pairs], rtol=1e-5)
    x, y, w, h = boxes[[query for _, query, _ in pairs]].T
    np.testing.assert_allclose(boxes_xyxy, np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1), atol=1e-6)


def test_so_many_detections_as_coco_looks_at_or_as_there_are_queries():
    for queries, classes, wanted in ((10, 3, 30), (50, 80, 100), (300, 2, 300)):
        scores, _, _ = jax.eval_shape(postprocess.top_pairs, np.zeros((2, queries, classes)), np.zeros((2, queries, 4)))
        assert scores.shape == (2, wanted)
