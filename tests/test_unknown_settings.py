"""A setting that does not exist is answered with the one that is meant."""

import pytest

from detr_jax.unknown_settings import describe_unknown_setting, nearest_setting


@pytest.mark.parametrize(
    "given, meant",
    [
        ("optim.learning_rate", "optim.lr"),
        ("learning_rate", "optim.lr"),
        ("trian.steps", "train.steps"),
        ("train.batchsize", "train.batch_size"),
        ("model.hiden_dim", "model.hidden_dim"),
        ("train.lr", "optim.lr"),  # of another group
        ("batch_size", "train.batch_size"),  # without its group
        ("modl", "model"),
        ("see", "seed"),
        ("xx.yy", None),
    ],
)
def test_the_nearest_setting(given, meant):
    assert nearest_setting(given) == meant


def test_the_sentence():
    assert describe_unknown_setting("optim.lrr") == "there is no setting optim.lrr; did you mean optim.lr?"
    assert describe_unknown_setting("loss.qqqq").startswith("there is no setting loss.qqqq; choose from loss.")
    for name in ("xx.yy", "qqqq"):
        sentence = describe_unknown_setting(name)
        assert sentence.startswith(f"there is no setting {name}; choose from seed, dtype, ")
        assert "model.*, data.*" in sentence
