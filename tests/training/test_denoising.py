"""Noised objects: how far they may be from the objects they were, and that they are drawn anew for each key."""

import jax
import numpy as np
import pytest

from detr_jax.structures import Targets
from detr_jax.training.denoising import BOX_NOISE, LABEL_NOISE, add_noise

BATCH, SLOTS, GROUPS, CLASSES = 6, 50, 8, 5


@pytest.fixture(scope="module")
def targets() -> Targets:
    rng = np.random.default_rng(0)
    return Targets(
        rng.uniform(0.3, 0.45, (BATCH, SLOTS, 4)).astype(np.float32),
        rng.integers(0, CLASSES, (BATCH, SLOTS)).astype(np.int32),
        rng.random((BATCH, SLOTS)) < 0.7,
    )


@pytest.fixture(scope="module")
def noised(targets):
    return jax.tree.map(np.asarray, add_noise(targets, GROUPS, CLASSES, jax.random.key(0)))


def test_boxes_stay_in_the_image():
    edge = Targets(
        np.array([[[0.02, 0.98, 0.9, 1.0]] * 20], np.float32), np.zeros((1, 20), np.int32), np.ones((1, 20), bool)
    )
    boxes = np.asarray(add_noise(edge, GROUPS, CLASSES, jax.random.key(0)).boxes)
    assert boxes.min() == 0.0 and boxes.max() == 1.0


def test_some_labels_are_drawn_anew(targets, noised):
    changed = (noised.labels != targets.labels[:, None]).mean()
    assert changed == pytest.approx(
        LABEL_NOISE * (CLASSES - 1) / CLASSES, abs=0.03
    )  # one draw in K is the label itself
    assert set(np.unique(noised.labels)) == set(range(CLASSES))


def test_groups_and_keys_have_noise_of_their_own(targets, noised):
    assert not np.array_equal(noised.boxes[:, 0], noised.boxes[:, 1])
    other = add_noise(targets, GROUPS, CLASSES, jax.random.key(1))
    assert not np.array_equal(noised.boxes, other.boxes) and not np.array_equal(noised.labels, other.labels)
    np.testing.assert_array_equal(noised.valid, targets.valid)


def test_noise_is_as_large_as_the_paper_says():
    targets = Targets(np.full((1, 500, 4), 0.4, np.float32), np.zeros((1, 500), np.int32), np.ones((1, 500), bool))
    found = add_noise(targets, 4, 10, jax.random.key(0))
    moved = np.asarray(found.boxes) - 0.4
    limits = BOX_NOISE * 0.4 * np.array([0.5, 0.5, 1, 1])
    assert (np.abs(moved).max(axis=(0, 1, 2)) <= limits + 1e-6).all()
    np.testing.assert_allclose(np.abs(moved).mean(axis=(0, 1, 2)), limits / 2, rtol=0.05)
    assert 0.15 < np.mean(np.asarray(found.labels) != 0) < 0.21  # a fifth is drawn anew, a tenth of it the same
    assert len(np.unique(moved.reshape(-1, 4), axis=0)) > 1990
