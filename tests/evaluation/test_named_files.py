"""Files of several detectors, in all the ways in which people type them."""

import re

import pytest

from detr_jax.errors import UserError
from detr_jax.evaluation.named_files import name_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x.json", "y.json", "lr=1e-4.json", "one,two.json"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["a=x.json", "b=y.json"], {"a": "x.json", "b": "y.json"}),
        (["a=x.json,b=y.json"], {"a": "x.json", "b": "y.json"}),
        (["a=x.json, b=y.json"], {"a": "x.json", "b": "y.json"}),
        (["x.json", "y.json"], {"x": "x.json", "y": "y.json"}),
        (["lr=1e-4.json"], {"lr=1e-4": "lr=1e-4.json"}),
        (["a=lr=1e-4.json"], {"a": "lr=1e-4.json"}),
        (["one,two.json"], {"one,two": "one,two.json"}),
        (["a=one,two.json"], {"a": "one,two.json"}),
        (["x.json,猫=y.json"], {"x": "x.json", "猫": "y.json"}),
        ([""], {}),
    ],
)
def test_names_and_files(folder, values, wanted):
    assert {name: str(path) for name, path in name_files(values, "--predictions").items()} == wanted


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["a=x.json", "a=y.json"], "both x.json and y.json are named 'a'"),
        (["=x.json"], "has no name before the ="),
        (["a=z.json"], "z.json does not exist"),
        (["a=."], "is a folder"),
    ],
)
def test_a_mistake_is_one_sentence(folder, values, words):
    with pytest.raises(UserError, match=re.escape(words)):
        name_files(values, "--predictions")
