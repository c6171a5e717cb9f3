"""Settings as typed records: defaults, rules, what may differ between two starts of a run."""

import ast
import dataclasses
from pathlib import Path

import pytest

from detr_jax.config import Config, DataConfig, ModelConfig, differences, settings

PACKAGE = Path(__file__).parents[1] / "detr_jax"
SETTINGS = {one.name: one for one in settings(Config())}


def test_settings_are_frozen_and_can_be_compared_and_hashed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model.hidden_dim = 3
    assert Config() == Config() and hash(Config()) == hash(Config())
    assert dataclasses.replace(Config(), seed=1) != Config()


def test_the_defaults_are_the_published_recipe():
    config = Config()
    assert (config.model.hidden_dim, config.model.heads, config.model.num_queries) == (256, 8, 100)
    assert (config.optim.lr, config.optim.lr_backbone, config.optim.weight_decay) == (1e-4, 1e-5, 1e-4)
    assert config.data.scales == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    assert (config.loss.class_cost, config.loss.bbox_cost, config.loss.giou_cost) == (1, 5, 2)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_meaning_and_a_default_within_its_rule(name):
    one = SETTINGS[name]
    assert one.rule.meaning.endswith((".", ")")), one.rule.meaning
    if one.rule.choices:
        assert one.value in one.rule.choices
    if one.rule.least is not None:
        assert one.rule.least <= one.value <= (one.rule.most if one.rule.most is not None else one.value)


def attributes_read() -> set[str]:
    """Every attribute that the package reads, but for the files that define and check the settings."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        if not path.name.startswith("config"):
            names |= {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    return names


def test_no_setting_is_dead():
    read = attributes_read()
    assert [name for name in SETTINGS if name.rpartition(".")[2] not in read] == []


def with_values(**groups) -> Config:
    config = Config()
    return dataclasses.replace(
        config, **{name: dataclasses.replace(getattr(config, name), **values) for name, values in groups.items()}
    )


def test_differences_between_two_starts():
    assert differences(Config(), Config()) == []
    how_often = with_values(train={"log_every": 1, "keep": 9, "matcher": "pallas"}, data={"threads": 1, "dir": "there"})
    assert differences(Config(), how_often) == []
    what = with_values(optim={"lr": 0.5}, model={"dropout": 0.0})
    assert differences(Config(), what) == ["model.dropout was 0.1 and is now 0.0", "optim.lr was 0.0001 and is now 0.5"]


def test_a_run_may_become_longer_unless_its_schedule_is_stretched_over_it():
    longer = {"train": {"steps": 7, "epochs": 9}}
    assert differences(Config(), with_values(**longer)) == []
    cosine = with_values(optim={"schedule": "cosine"})
    assert differences(cosine, with_values(optim={"schedule": "cosine"}, **longer)) == [
        "train.epochs was 300 and is now 9",
        "train.steps was 0 and is now 7",
    ]


def test_groups_are_settings_too():
    assert {one.name for one in settings(ModelConfig(), "model.")} < SETTINGS.keys()
    assert next(settings(DataConfig())).name == "name"
