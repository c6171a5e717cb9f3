"""Where a detector looks: the right query for every detection, the image's own cells, the right pixels."""

import dataclasses

import jax
import numpy as np
import pytest

from detr_jax.devices import as_auto
from detr_jax.inference.attention import WATCHED, Attended, Spread
from detr_jax.inference.detector import Detector, make_detector
from detr_jax.inference.image_files import ImageFiles
from detr_jax.models import detr
from detr_jax.structures import Categories, Detections
from tests.inference.test_detector import DATA, MODEL

THREE = Categories((1, 2, 3), ("cat", "dog", "emu"))
FAST = dataclasses.replace(
    MODEL, anchors=True, queries="selected", focus=True, finer_memory=True, class_scores="sigmoid", num_queries=9
)
MODELS = {"softmax": dataclasses.replace(MODEL, num_queries=9), "sigmoid": FAST}
MODELS["no encoder"] = dataclasses.replace(FAST, encoder_layers=0)
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, size, np.uint8) for size in ((50, 70, 3), (70, 50, 3), (20, 90, 3), (64, 64, 3))]


def detector_of(model) -> Detector:
    network = detr.network(model, 3)
    mesh = as_auto(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]))
    arrays = jax.jit(network.init)(jax.random.key(1))
    arrays["class_head/kernel"] *= 5  # scores that differ
    return make_detector(network, arrays, THREE, model, DATA, mesh)


@pytest.mark.parametrize("name", MODELS)
def test_attention_belongs_to_its_detection(name):
    """Found again by the box among all queries, for images of several sizes and canvases."""
    detector, images = detector_of(MODELS[name]), ImageFiles(IMAGES)
    plain = dict(detector.over(images, 2))
    rows = {row: (detections, attended) for row, detections, attended in detector.attention_over(images, 2)}
    assert rows.keys() == plain.keys()
    every = np.arange(9)[None]
    for row, (detections, attended) in rows.items():
        np.testing.assert_allclose(detections.scores, plain[row].scores, atol=1e-5)
        assert len(attended.detections) == WATCHED and attended.detections == detections.best(WATCHED)
        alone = next(iter(detector._compute(lambda *given: given[1].inputs, ImageFiles([IMAGES[row]]), 1, None, None)))[
            1
        ]
        predictions, decoder, encoder = jax.jit(
            lambda arrays, inputs: detector.network.apply(
                arrays, inputs, lambda one: np.tile(every, (len(one.boxes[-1]), 1)), method="with_attention"
            )
        )(detector.arrays, alone)
        height, width = IMAGES[row].shape[:2]
        centers = np.asarray(predictions.boxes[-1, 0, :, :2]) * (width, height)
        for number, box in enumerate(attended.detections.boxes_xyxy):
            query = np.abs(centers - (box[:2] + box[2:]) / 2).sum(axis=1).argmin()
            for spread, weights in ((attended.decoder, decoder), (attended.encoder, encoder)):
                if name == "no encoder" and spread is attended.encoder:
                    assert spread is None and weights is None
                    continue
                h, w = spread.weights.shape[1:]
                wanted = np.asarray(weights.values[0, :, query]).mean(axis=0)
                np.testing.assert_allclose(spread.weights[number], wanted[:h, :w], atol=1e-5)
                assert spread.weights[number].sum() == pytest.approx(1, abs=1e-5)
                assert (h - 1, w - 1) < spread.cells <= (h, w)


def attended_of(scores, labels) -> Attended:
    detections = Detections(np.zeros((len(scores), 4), np.float32), np.array(scores), np.array(labels), THREE)
    weights = np.arange(len(scores), dtype=np.float32).reshape(-1, 1, 1)
    return Attended(detections, Spread(weights, (1.0, 1.0)), Spread(weights, (1.0, 1.0)))


@pytest.mark.parametrize(
    "threshold, kept",
    [(0.5, [0, 1]), (0.99, [0]), (0.0, [0, 1, 2]), (np.array([0.95, 0.1, 0.1]), [1, 2]), (np.ones(3), [0])],
)
def test_what_scores_too_little_is_left_out_but_the_best_one_stays(threshold, kept):
    found = attended_of([0.9, 0.6, 0.2], [0, 1, 2]).above(threshold)
    assert found.detections.labels.tolist() == kept
    assert found.decoder.weights.ravel().tolist() == found.encoder.weights.ravel().tolist() == kept


def test_a_map_lies_on_the_right_pixels():
    """Cells of 16 pixels on an image of 40 x 24: two and a half rows, one and a half columns."""
    weights = np.array([[[0, 0], [1, 0], [0, 0]]], np.float32)
    pixels = Spread(weights, (2.5, 1.5)).over_pixels(0, (40, 24))
    assert pixels.shape == (40, 24) and pixels.max() <= 1
    assert pixels[24, 7] > 0.9 and pixels[24, 0] > 0.9  # from the middle of the cell to the edge of the image
    assert pixels[16, 7] == pytest.approx(0.5, abs=0.05) and pixels[24, 15] == pytest.approx(0.5, abs=0.05)
    assert pixels[:8].max() < 0.05 and pixels[:, 23].max() < 0.05
    even = Spread(np.full((1, 3, 2), 0.1, np.float32), (2.5, 1.5)).over_pixels(0, (80, 48))
    np.testing.assert_allclose(even, 0.1, atol=1e-6)
