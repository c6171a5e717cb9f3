"""The nearest of several names."""

import pytest

from detr_jax.spelling import choices, nearest_name

NAMES = ("train", "evaluate", "r18_c4", "workdir")


@pytest.mark.parametrize(
    "given, near", [("trian", "train"), ("r18c4", "r18_c4"), ("WORKDR", "workdir"), ("x", None), ("", None)]
)
def test_the_nearest_name(given, near):
    assert nearest_name(given, NAMES) == near


def test_the_choices():
    assert choices("trian", NAMES) == "did you mean train? There are train, evaluate, r18_c4, workdir"
    assert choices("x", iter(NAMES)) == "choose from train, evaluate, r18_c4, workdir"
