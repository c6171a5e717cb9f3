"""Streaming large JSON: the values that json parses, wherever the chunks are cut."""

import json

import pytest

from detr_jax.datasets import json_stream
from tests.datasets.ground_truth import GROUND_TRUTH


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(GROUND_TRUTH, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_stream_yields_what_json_parses(file, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    data = file.read_bytes()
    found = {}
    for element in json_stream.elements(file):
        assert json.loads(data[element.start : element.end]) == element.value
        found.setdefault(element.key, []).append(element.value)
    assert found == {key: value if isinstance(value, list) else [value] for key, value in GROUND_TRUTH.items()}


@pytest.mark.parametrize("text", ["[1, 23, 456]", '{"a": 12345}', '\ufeff{"a": [], "b": [[], {}]}', " {} ", "[]"])
def test_stream_of_odd_files(tmp_path, monkeypatch, text):
    monkeypatch.setattr(json_stream, "CHUNK", 2)
    (tmp_path / "odd.json").write_text(text, encoding="utf-8")
    values = [element.value for element in json_stream.elements(tmp_path / "odd.json")]
    expected = {"[1": [1, 23, 456], '{"': [12345], "\ufeff{": [[], [], {}], " {": [], "[]": [[]]}
    assert values == expected[text[:2]]
