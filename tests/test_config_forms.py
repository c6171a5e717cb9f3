"""Settings survive every form: ml_collections, JSON, flags, documentation."""

import json

import pytest

from detr_jax.config import Config
from detr_jax.config_forms import as_flags, as_markdown, from_config_dict, from_dict, to_config_dict, to_dict
from detr_jax.errors import UserError
from detr_jax.structures import Bucket


def test_there_and_back():
    config = Config(init_from="runs/a", freeze=("backbone",))
    assert from_config_dict(to_config_dict(config)) == config
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert from_dict({}) == Config()


def test_changed_values_are_typed():
    nested = to_config_dict(Config())
    nested.update_from_flattened_dict(
        {"optim.lr": 1, "data.scales": (3, 4), "data.buckets": ((5, 6, 7),), "init_from": "there", "train.remat": True}
    )
    config = from_config_dict(nested)
    assert config.optim.lr == 1.0 and isinstance(config.optim.lr, float)
    assert config.data.scales == (3, 4) and config.data.buckets == (Bucket(5, 6, 7),)
    assert config.init_from == "there" and config.train.remat is True


@pytest.mark.parametrize("value", ["auto", ("auto",), ["auto"], (), []])
def test_canvases_may_be_left_to_the_images(value):
    assert from_dict({"data": {"buckets": value}}).data.buckets == ()


@pytest.mark.parametrize(
    "values, words",
    [
        ({"model": {"hiden_dim": 3}}, ["model.hiden_dim", "hidden_dim"]),
        ({"modl": {}}, ["modl", "model"]),
        ({"data": {"scales": 240}}, ['data.scales=240 is not a list: write it as data.scales="(240,)"']),
        ({"data": {"scales": ["a"]}}, ["data.scales='a' is not a whole number"]),
        ({"data": {"buckets": [[1, 2]]}}, ["data.buckets has the row [1, 2]", "(height, width, target slots)"]),
        ({"data": {"buckets": [[1, 2, 0]]}}, ["data.buckets"]),
        ({"model": {"heads": 2.5}}, ["model.heads=2.5 is not a whole number"]),
        ({"model": {"heads": True}}, ["model.heads=True"]),
        ({"model": {"anchors": 1}}, ["model.anchors=1 is not True or False"]),
        ({"optim": {"lr": "fast"}}, ["optim.lr='fast' is not a number"]),
        ({"init_from": 3}, ["init_from=3 is not a text"]),
    ],
)
def test_a_wrong_value_is_one_sentence(values, words):
    with pytest.raises(UserError) as caught:
        from_dict(values)
    for word in words:
        assert word in str(caught.value)


def test_messages_name_flags():
    assert as_flags("set optim.lr=2 and data.buckets, or freeze=('a',)") == (
        "set --config.optim.lr=2 and --config.data.buckets, or --config.freeze=('a',)"
    )
    for text in ("the seed of a data.json", "docs/model.heads", "freeze it", "--config.optim.lr=2", "a.model.heads=3"):
        assert as_flags(text) == text


def test_documentation_holds_every_setting():
    text = as_markdown()
    assert max(map(len, text.splitlines())) < 120
    for name in ("seed", "model.num_queries", "data.buckets", "train.cache_features", "optim.schedule"):
        assert f"**`{name}`**" in text
    assert "one of step, cosine, constant" in " ".join(text.split()) and "*resumable*" in text
