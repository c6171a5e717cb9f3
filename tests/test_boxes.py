"""Boxes against the definitions, one pair at a time in Python floats; empty boxes must not poison a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from detr_jax import boxes


def random_xyxy(count: int, seed: int) -> np.ndarray:
    corners = np.random.default_rng(seed).uniform(0, 1, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], axis=-1).astype(np.float32)


def slow_iou_and_giou(a, b) -> tuple[float, float]:
    a, b = [float(x) for x in a], [float(x) for x in b]
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union, inter / union - (hull - union) / hull


def test_formats_by_hand_and_round_trip():
    np.testing.assert_allclose(boxes.to_xyxy(jnp.array([0.5, 0.4, 0.2, 0.6])), [0.4, 0.1, 0.6, 0.7], atol=1e-7)
    np.testing.assert_allclose(boxes.from_xyxy(jnp.array([0.4, 0.1, 0.6, 0.7])), [0.5, 0.4, 0.2, 0.6], atol=1e-7)
    corners = random_xyxy(60, 0).reshape(3, 4, 5, 4)  # any leading axes
    np.testing.assert_allclose(boxes.to_xyxy(boxes.from_xyxy(corners)), corners, atol=1e-6)


def test_overlaps_equal_slow_loops():
    a, b = random_xyxy(40, 1), random_xyxy(40, 2)
    wanted = np.array([slow_iou_and_giou(*pair) for pair in zip(a, b, strict=True)])
    np.testing.assert_allclose(boxes.iou(a, b), wanted[:, 0], atol=1e-5)
    np.testing.assert_allclose(boxes.giou(a, b), wanted[:, 1], atol=1e-5)


def test_pairwise_is_all_with_all():
    a, b = random_xyxy(14, 3).reshape(2, 7, 4), random_xyxy(10, 4).reshape(2, 5, 4)
    pairwise = boxes.pairwise_giou(a, b)
    assert pairwise.shape == (2, 7, 5)
    for image, first, second in np.ndindex(2, 7, 5):
        wanted = slow_iou_and_giou(a[image, first], b[image, second])[1]
        np.testing.assert_allclose(pairwise[image, first, second], wanted, atol=1e-5)


@pytest.mark.parametrize(
    "a, b, iou, giou",
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0, 1.0),
        ((0, 0, 0.5, 1), (0.5, 0, 1, 1), 0.0, 0.0),  # they touch
        ((0, 0, 0.25, 1), (0.75, 0, 1, 1), 0.0, -0.5),  # half of the hull is empty
        ((0, 0, 0.5, 0.5), (0.25, 0, 0.75, 0.5), 1 / 3, 1 / 3),
    ],
)
def test_overlaps_by_hand(a, b, iou, giou):
    a, b = jnp.array(a, float), jnp.array(b, float)
    np.testing.assert_allclose([boxes.iou(a, b), boxes.giou(a, b)], [iou, giou], atol=1e-6)


DEGENERATE = {
    "the same point twice": ((0.5, 0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5)),
    "two points": ((0.1, 0.1, 0.1, 0.1), (0.9, 0.9, 0.9, 0.9)),
    "two points at the origin": ((0, 0, 0, 0), (0, 0, 0, 0)),
    "a point in a box": ((0.5, 0.5, 0.5, 0.5), (0.2, 0.2, 0.8, 0.8)),
    "two lines": ((0.1, 0.5, 0.9, 0.5), (0.1, 0.5, 0.9, 0.5)),
    "a box twice": ((0.1, 0.1, 0.5, 0.5), (0.1, 0.1, 0.5, 0.5)),
    "inverted corners": ((0.8, 0.8, 0.2, 0.2), (0.1, 0.1, 0.5, 0.5)),
    "both inverted": ((0.8, 0.8, 0.2, 0.2), (0.8, 0.8, 0.2, 0.2)),
    "smaller than float32 resolves": ((0.5, 0.5, 0.5 + 1e-7, 0.5), (0.5, 0.5, 0.5, 0.5 + 1e-7)),
}


@pytest.mark.parametrize("function", [boxes.iou, boxes.giou])
@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_boxes_have_finite_values_and_gradients(function, name):
    a, b = (jnp.array(box, jnp.float32) for box in DEGENERATE[name])
    value, gradients = jax.value_and_grad(function, argnums=(0, 1))(a, b)
    assert np.isfinite(value) and np.isfinite(gradients).all()


def test_gradient_equals_finite_differences():
    a, b = random_xyxy(1, 5)[0], random_xyxy(1, 6)[0]
    gradient = jax.grad(boxes.giou)(jnp.asarray(a), jnp.asarray(b))
    for side in range(4):
        step = np.zeros(4)
        step[side] = 1e-6
        slope = (slow_iou_and_giou(a + step, b)[1] - slow_iou_and_giou(a - step, b)[1]) / 2e-6
        np.testing.assert_allclose(gradient[side], slope, rtol=1e-3)
