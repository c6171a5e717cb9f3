"""Results of a detector with other category ids become those of the dataset, by the names of the classes."""

import json

import pytest

from detr_jax.datasets.coco import COCO_CATEGORIES
from detr_jax.errors import UserError
from detr_jax.evaluation import coco_eval
from detr_jax.evaluation.results import read_results
from detr_jax.evaluation.translation import read_classes, translate_results
from detr_jax.structures import Categories
from tests.evaluation.random_results import random_set

PETS = Categories((3, 8), ("Cats", "dog"))


def row(category_id, **more):
    return {"image_id": 1, "category_id": category_id, "bbox": [0, 0, 9, 9], "score": 0.5} | more


def ids(rows):
    return [one["category_id"] for one in rows]


def test_ids_are_matched_by_name():
    rows, said = translate_results([row(17), row(18), row(1)], PETS, COCO_CATEGORIES)
    assert ids(rows) == [3, 8]
    assert "2 of 3 results count" in said[0] and "cat = Cats" in said[1] and "78 of the detector's 80" in said[2]


def test_rows_with_names_need_no_table():
    named = [row(1, category_name="dog"), row(2, category_name="emu")]
    assert ids(translate_results(named, PETS)[0]) == [8]
    same = [row(8, category_name="dog")]
    assert translate_results(same, PETS) == (same, [])
    assert translate_results([row(8), row(3)], PETS) == ([row(8), row(3)], [])
    assert translate_results([], PETS) == ([], [])


def test_the_class_map_is_followed(tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"emu": "dog"}))
    path = str(tmp_path / "map.json")
    assert ids(translate_results([row(5)], PETS, Categories((5,), ("emu",)), path)[0]) == [8]
    with pytest.raises(UserError, match="--class_map needs .* --categories"):
        translate_results([row(5)], PETS, None, path)


def test_ids_that_no_table_has_are_refused():
    with pytest.raises(UserError, match="--categories does not have: 99"):
        translate_results([row(99)], PETS, COCO_CATEGORIES)
    with pytest.raises(UserError, match="have no name in common"):
        translate_results([row(1)], PETS, Categories((1,), ("sofa",)))


def test_figures_are_those_of_the_right_ids(tmp_path):
    truth, results = random_set(2)
    right = coco_eval.evaluate(truth, results).numbers
    for category in truth["categories"]:
        category["name"] = f"Class-{category['id']}s"
    own = Categories.from_rows([{"id": 100 - c["id"], "name": f"class {c['id']}"} for c in truth["categories"]])
    (tmp_path / "dt.json").write_text(json.dumps([r | {"category_id": 100 - r["category_id"]} for r in results]))
    rows, notes = read_results(tmp_path / "dt.json", truth, own)
    assert rows == results and coco_eval.evaluate(truth, rows).numbers == right and len(notes) == 2
    with pytest.raises(UserError, match="--categories=FILE"):
        read_results(tmp_path / "dt.json", truth)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("{}", "holds no categories"),
        ("[]", "holds no categories"),
        ('[{"id": "a", "name": "b"}]', "holds no categories"),
        ('{"categories": [{"id": 1}]}', "holds no categories"),
        ('[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]', "an id twice"),
    ],
)
def test_what_is_no_table_is_one_sentence(text, words, tmp_path):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=words):
        read_classes(str(tmp_path / "c.json"))
    (tmp_path / "c.json").write_text('{"categories": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}]}')
    assert read_classes(str(tmp_path / "c.json")) == Categories((1, 2), ("a", "b"))
