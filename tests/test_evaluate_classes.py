"""Which class of the dataset each class of a model is: by name, never by a name that is not clear."""

import pytest

from detr_jax.errors import UserError
from detr_jax.evaluate import ids_by_name
from detr_jax.structures import Categories

TWICE = Categories((1, 2, 5), ("cat", "dog", "cat"))
ONCE = Categories((4, 7), ("cat", "dog"))


def test_names_decide():
    assert ids_by_name(ONCE, Categories((9, 3), ("dog", "emu")), {}) == [None, 9]
    assert ids_by_name(ONCE, Categories((9, 3), ("dog", "emu")), {"cat": "emu", "dog": "emu"}) == [3, 3]
    with pytest.raises(UserError, match="have no name in common"):
        ids_by_name(ONCE, Categories((9,), ("emu",)), {})


def test_classes_of_one_name_are_told_apart_by_their_ids():
    assert ids_by_name(TWICE, TWICE, {}) == [1, 2, 5]
    assert ids_by_name(TWICE, Categories((2,), ("dog",)), {}) == [None, 2, None]


@pytest.mark.parametrize(
    ("model", "dataset", "renamed", "ids"),
    [
        (TWICE, ONCE, {}, "'cat' is category 1 and 5 of the model, 'cat' is category 4 of the dataset"),
        (ONCE, TWICE, {}, "'cat' is category 4 of the model, 'cat' is category 1 and 5 of the dataset"),
        (ONCE, TWICE, {"dog": "cat"}, "'cat' is category 1 and 5 of the dataset"),
        (TWICE, Categories((1, 6), ("cat", "cat")), {}, "1 and 5 of the model, 'cat' is category 1 and 6"),
    ],
)
def test_a_name_that_is_not_clear_is_refused_with_the_ids(model, dataset, renamed, ids):
    with pytest.raises(UserError, match=ids):
        ids_by_name(model, dataset, renamed)
