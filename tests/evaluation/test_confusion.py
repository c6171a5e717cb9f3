"""The confusion matrix equals hotcoco's; with thresholds it counts what is shown."""

import numpy as np
import pytest

from detr_jax.evaluation.confusion import confusion_matrix, most_confused, rates
from tests.evaluation.random_results import pair_up
from tests.evaluation.test_tide import GOLDEN, random_of


@pytest.mark.parametrize("seed", GOLDEN)
def test_counts_equal_those_of_hotcoco(seed):
    assert confusion_matrix(*pair_up(*random_of(seed))).tolist() == GOLDEN[seed]["confusion"]


def test_every_object_and_every_chosen_detection_is_counted_once():
    pairing, classes = pair_up(*random_of("1"))
    chosen = pairing.scores > 0.6
    matrix = confusion_matrix(pairing, classes, chosen)
    np.testing.assert_array_equal(matrix[:-1].sum(axis=1), np.bincount(pairing.objects.labels, minlength=classes))
    labels = pairing.detections.labels[chosen]
    np.testing.assert_array_equal(matrix[:, :-1].sum(axis=0), np.bincount(labels, minlength=classes))
    assert matrix[-1, -1] == 0


def test_shares_and_pairs():
    matrix = np.array([[3, 1, 0], [0, 0, 0], [5, 0, 0]])
    np.testing.assert_allclose(rates(matrix), [[0.75, 0.25, 0], [0, 0, 0], [1, 0, 0]])
    assert most_confused(matrix) == [(0, 1, 1)]
