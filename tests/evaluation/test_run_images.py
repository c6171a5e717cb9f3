"""The best and worst images are those of the stated measure."""

import numpy as np

from detr_jax.evaluation.errors import analyse
from detr_jax.evaluation.run_images import choose_images, cut_bands, score_images
from tests.evaluation.random_results import random_set


def test_scores_are_counted_by_hand():
    errors = analyse(*random_set(3))
    scores = score_images(errors)
    assert sum(one.right for one in scores) == errors.found.sum()
    assert sum(one.missed for one in scores) == (~errors.found).sum()
    assert sum(one.wrong for one in scores) == errors.counts_at_thresholds["FP"]
    assert [one.f1 for one in scores] == sorted(one.f1 for one in scores)
    for one in scores[:10]:
        rows = (errors.pairing.detections.images == one.image) & errors.shown
        precision, recall = one.right / max(rows.sum(), 1), one.right / max(one.right + one.missed, 1)
        assert np.isclose(one.f1, 2 * precision * recall / max(precision + recall, 1e-9))


def test_no_image_is_among_both_and_none_is_best_with_nothing_right():
    for images in (1, 2, 5, 60):
        scores = score_images(analyse(*random_set(2, images=images)))
        worst, best = choose_images(scores)
        assert not {one.image for one in worst} & {one.image for one in best} and len(worst) <= 6 and len(best) <= 6
        assert all(one.right for one in best) and all(one.f1 < 1 for one in worst)
        if worst and best:
            assert max(one.f1 for one in worst) <= min(one.f1 for one in best)


def test_white_bands_are_cut():
    picture = np.full((100, 60, 3), 255, np.uint8)
    picture[40:50], picture[95:] = 7, 9
    cut = cut_bands(picture)
    assert cut.shape == (8 + 10 + 8 + 5, 60, 3) and (cut[8:18] == 7).all() and (cut[-5:] == 9).all()
