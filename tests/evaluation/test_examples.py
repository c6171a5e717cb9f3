"""Images of a page: those with the most to see, within a number of boxes."""

import numpy as np

from detr_jax.evaluation import errors
from detr_jax.evaluation.confusion import confusion_matrix, list_cells
from detr_jax.evaluation.examples import list_examples, rank_examples
from tests.evaluation.random_results import random_set


def test_every_image_is_ranked_once_and_the_worst_is_first():
    found = errors.analyse(*random_set(1))
    ranked = rank_examples(found)
    assert sorted(ranked) == list(range(60)) and ranked[0] == found.images[0].image


def test_the_first_images_show_each_type_of_error():
    found = errors.analyse(*random_set(2, images=300))
    first = set(rank_examples(found)[:40])
    shown = found.shown & np.isin(found.pairing.detections.images, list(first))
    for kind in range(5):
        assert (found.tide.kinds[shown] == kind).any() or not (found.tide.kinds[found.shown] == kind).any()


def test_boxes_are_bounded_and_faint_ones_go_first():
    found = errors.analyse(*random_set(3))
    ranked = rank_examples(found)
    whole = list_examples(found, ranked)
    assert len(whole) == 60 and any(len(one.detections) // 10 > one.shown for one in whole)
    need = sum(1 + one.shown + len(one.objects) // 6 for one in whole)
    exact = list_examples(found, ranked, need)
    assert len(exact) == 60 and all(len(one.detections) // 10 == one.shown for one in exact)
    few = list_examples(found, ranked, need // 2)
    assert 0 < len(few) < 60 and [one.image for one in few] == ranked[: len(few)]


def test_cells_one_by_one_make_the_matrix():
    found = errors.analyse(*random_set(4))
    for chosen in (None, found.shown):
        cells = list_cells(found.pairing, 4, chosen)
        matrix = np.zeros((5, 5), int)
        for row, column in zip(cells.rows, cells.columns, strict=True):
            matrix[row, column] += 1
        np.testing.assert_array_equal(matrix, confusion_matrix(found.pairing, 4, chosen))
