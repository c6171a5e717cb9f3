"""Words of a configuration: any order, contradictions named."""

import itertools

import pytest

from detr_jax.errors import UserError
from detr_jax.words import compose

MODELS = {"small": {"model.hidden_dim": 32, "train.steps": 5}, "large": {"model.hidden_dim": 64}}
OTHERS = {"quick": {"train.steps": 1}, "short": {"train.steps": 2, "seed": 3}, "wide": {"data.scales": (9,)}}


def values(words: str, **more):
    config = compose(words, MODELS, OTHERS, default="large", **more)
    return config.model.hidden_dim, config.train.steps, config.seed, config.data.scales


def test_words_stand_in_any_order():
    orders = [",".join(order) for order in itertools.permutations(["small", "quick", "wide"])]
    assert {values(words) for words in orders} == {(32, 1, 42, (9,))}


def test_the_default_is_meant_where_no_model_is_named():
    assert values("quick")[:2] == (64, 1) == values("large,quick")[:2]
    assert values("")[0] == 64


def test_blanks_and_repetitions_do_not_matter():
    assert values(" small , quick,quick,")[:2] == (32, 1)


def test_what_comes_before_all_words():
    assert values("small", base={"train.steps": 8, "seed": 4})[1:3] == (5, 4)


@pytest.mark.parametrize(
    "words, named",
    [
        ("small,large", ["small and large", "choose one"]),
        ("quick,short", ["quick and short", "train.steps", "1 and 2"]),
        ("smal", ["unknown word 'smal'", "did you mean small? There are small, large, quick, short, wide"]),
        ("nothing", ["unknown word 'nothing'", "choose from small, large, quick, short, wide"]),
    ],
)
def test_contradictions_and_unknown_words_are_named(words, named):
    with pytest.raises(UserError) as caught:
        values(words)
    for word in named:
        assert word in str(caught.value)
