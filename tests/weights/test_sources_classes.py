"""Rows of class heads where several classes have one name: told apart by id, or left as initialised and said."""

from pathlib import Path

import jax
import numpy as np
import pytest

from detr_jax.structures import Categories
from detr_jax.weights import sources
from detr_jax.weights.sources import Weights

OLD = Categories((1, 2, 5), ("cat", "dog", "cat"))
THEIRS = {"class_head/bias": np.array([10, 20, 50, 99], np.float32)}  # the last is no object
MATCHES = {  # new classes -> rows of the head, 0 where it is as initialised, and what the report names
    "the same table": (OLD, [10, 20, 50, 99], False),
    "the same ids of the name": (Categories((1, 5, 7), ("cat", "cat", "cow")), [10, 50, 0, 99], False),
    "other ids": (Categories((3, 4, 9), ("cat", "dog", "cat")), [0, 20, 0, 99], True),
    "one of the ids": (Categories((1, 2), ("cat", "dog")), [0, 20, 99], True),
    "swapped": (Categories((2, 5), ("cat", "cat")), [0, 0, 99], True),
    "a name of its own": (Categories((4, 8, 9), ("dog", "emu", "emu")), [20, 0, 0, 99], False),
}


@pytest.mark.parametrize(("new", "rows", "is_unclear"), MATCHES.values(), ids=MATCHES)
def test_classes_of_one_name_are_told_apart_by_their_ids(new, rows, is_unclear):
    weights = Weights(path=Path("a test"), title="a test", arrays=THEIRS, categories=OLD)
    fresh = {"class_head/bias": np.zeros(len(new.ids) + 1, np.float32)}
    found, report = sources.fit_detector(weights, jax.eval_shape(lambda: fresh), fresh, new)
    assert found["class_head/bias"].tolist() == rows
    assert bool(report.unclear) == is_unclear
    assert ("'cat' (ids 1, 5 there" in str(report)) == is_unclear
