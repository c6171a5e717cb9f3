"""Early stopping: after how many evaluations without a higher AP a run ends."""

import pytest

from detr_jax.evaluation.patience import Patience


@pytest.mark.parametrize(
    ("evaluations", "scores", "over", "best"),
    [
        (2, [], False, 0),
        (2, [0.1], False, 1),
        (2, [0.3, 0.2], False, 1),
        (2, [0.3, 0.2, 0.3], True, 1),  # as high is not higher
        (2, [0.3, 0.2, 0.4], False, 3),
        (2, [0.1, 0.2, 0.4, 0.3, 0.1], True, 3),
        (0, [0.3] * 50, False, 1),
        (2, [-1.0, -1.0, -1.0], True, 1),  # a split without objects has nothing to rise
    ],
)
def test_it_is_over_after_so_many_evaluations_without_a_higher_ap(evaluations, scores, over, best):
    patience = Patience(evaluations, {})
    for step, score in enumerate(scores, start=1):
        assert not patience.over
        patience.add(step, score)
    assert patience.over == over and patience.best_step == best


def test_a_run_that_goes_on_knows_the_scores_of_its_log():
    patience = Patience(2, {200: 0.2, 100: 0.3})
    assert not patience.over
    patience.add(200, 0.2)  # scored again after a kill: still one evaluation
    assert not patience.over
    patience.add(300, 0.25)
    assert patience.over
    assert patience.describe() == (
        "AP has not risen in the last 2 evaluations (train.patience): 0.3000 at step 100 is the best"
    )
