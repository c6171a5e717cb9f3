"""Sheets of attention: their layout, and the brightest place where the model looks most."""

import numpy as np
import pytest

from detr_jax.inference.attention import Attended, Spread
from detr_jax.inference.attention_pictures import draw_attention
from detr_jax.structures import Categories, Detections

GREY = np.full((300, 400, 3), 128, np.uint8)


def attended_of(boxes, peaks, encoder: bool = True) -> Attended:
    """Detections whose maps of 3 x 4 cells have all their weight in one cell."""
    count = len(boxes)
    categories = Categories((1, 2), ("cat", "猫" * 90))
    detections = Detections(np.array(boxes, np.float32), np.full(count, 0.98), np.arange(count) % 2, categories)
    weights = np.zeros((count, 3, 4), np.float32)
    for number, (row, column) in enumerate(peaks):
        weights[number, row, column] = 1
    spread = Spread(weights, (3.0, 4.0))
    return Attended(detections, spread, spread if encoder else None)


def test_each_detection_has_a_row_and_each_map_is_brightest_at_its_peak():
    attended = attended_of([[10, 10, 90, 90], [300, 200, 390, 290]], [(0, 0), (2, 3)])
    sheet = draw_attention(GREY, attended)
    without = draw_attention(GREY, attended_of([[10, 10, 90, 90]], [(0, 0)], encoder=False))
    panel, row = sheet.shape[1] // 3, without.shape[0] - 50
    assert without.shape[1] == 2 * panel and sheet.shape[0] - without.shape[0] == pytest.approx(row, abs=1)
    assert len(np.unique(sheet[:, :6].reshape(-1, 3), axis=0)) <= 2  # paper
    for number, (x, y) in enumerate([(50, 50), (350, 250)]):
        part = sheet[number * row : (number + 1) * row, panel : 2 * panel].astype(int)
        yellow = part[..., 0] - part[..., 2]
        top, left = np.unravel_index(yellow.argmax(), yellow.shape)
        assert abs(left - (panel - 400) // 2 - x) < 60 and abs(top - (row - 300) - y) < 60


@pytest.mark.parametrize("shape", [(40, 300), (300, 40), (1, 1), (96, 96), (3000, 20)])
def test_any_photo_and_any_box(shape):
    height, width = shape
    boxes = [[-50, -50, 2 * width, 2 * height], [0, 0, 0, 0], [np.nan] * 4, [1, 1, 0, 0]]
    photo = np.zeros((*shape, 3), np.uint8)
    sheet = draw_attention(photo, attended_of(boxes, [(0, 0)] * 4))
    assert sheet.shape[1] >= 900 and sheet.shape[0] > 4 * 40


def test_a_map_without_any_weight():
    attended = attended_of([[10, 10, 90, 90]], [(0, 0)])
    nothing = attended._replace(decoder=attended.decoder._replace(weights=np.zeros((1, 3, 4), np.float32)))
    assert draw_attention(GREY, nothing).shape == draw_attention(GREY, attended).shape
