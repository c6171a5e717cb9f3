"""What is known of a detector besides its results, and what is not."""

import json

import pytest

from detr_jax.errors import UserError
from detr_jax.evaluation.facts import describe_facts, name_unknown, read_facts


def test_what_is_missing_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"parameters": 41_300_000, "hardware": "V100", "pretraining": None, "epochs": 500}))
    facts = read_facts(path)
    assert name_unknown(facts) == ["speed", "pretraining"]
    said = describe_facts(facts)
    assert "41.3 M parameters" in said and "speed not known" in said and "epochs 500" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is not a JSON object"),
        ('{"parameters": -1}', "must be a number above 0"),
        ('{"parameters": true}', "must be a number above 0"),
        ('{"images_per_second": NaN}', "must be a number above 0"),
        ('{"other": [1]}', "must be a text or a number"),
        ('{"other": Infinity}', "must be a text or a number"),
    ],
)
def test_other_contents_are_one_sentence(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_facts(path)
