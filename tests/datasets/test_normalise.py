"""The one form of entries: what is understood, what is left as it is, what is named."""

import math

import numpy as np
import pytest

from detr_jax.datasets.normalise import Unusable, fill, normalise

IMAGE = {"id": 7, "file_name": "a.jpg", "height": 60, "width": 80}
ANNOTATION = {"id": 5, "image_id": 7, "category_id": 3, "bbox": [1, 2.5, 30, 20], "area": 512.25, "iscrowd": 0}
CATEGORY = {"id": 3, "name": "日本 $5_{", "supercategory": "x"}
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("key", "entry"), [("images", IMAGE), ("annotations", ANNOTATION), ("categories", CATEGORY)], ids=str
)
def test_what_is_in_the_one_form_is_the_same_object(key, entry):
    entry = entry | {"something": {"of": "others"}}
    assert normalise(key, entry) is entry


@pytest.mark.parametrize("missing", [{"area"}, {"iscrowd"}, {"id"}, {"area", "iscrowd", "id"}])
def test_optional_fields_may_be_missing_until_they_are_read(missing):
    entry = {key: value for key, value in ANNOTATION.items() if key not in missing}
    assert normalise("annotations", entry) is entry
    assert fill("annotations", entry) == {"area": 600, "iscrowd": 0} | entry
    assert fill("annotations", ANNOTATION) is ANNOTATION


@pytest.mark.parametrize("side", [None, 0, -1, NAN, INFINITE, "unknown", "", [80], True, 80.5, 10**40])
def test_a_side_that_is_none_leaves_the_size_unknown(side):
    assert normalise("images", IMAGE | {"width": side}) == {"id": 7, "file_name": "a.jpg"}
    assert normalise("images", IMAGE | {"width": side, "height": side}) == {"id": 7, "file_name": "a.jpg"}


def test_one_side_alone_is_no_size():
    assert normalise("images", {"id": 7, "file_name": "a.jpg", "height": 60}) == {"id": 7, "file_name": "a.jpg"}


def test_numbers_may_be_text():
    assert normalise("images", {"id": "7", "file_name": 12, "height": "60", "width": 80.0}) == IMAGE | {
        "file_name": "12"
    }
    texts = {"id": 5, "image_id": " 7 ", "category_id": 3.0, "bbox": ["1", "2.5", "3e1", "20"], "area": "512.25"}
    assert normalise("annotations", texts | {"iscrowd": "0"}) == ANNOTATION
    assert normalise("categories", {"id": "3", "name": "a"}) == {"id": 3, "name": "a"}


@pytest.mark.parametrize("area", [None, -1, NAN, INFINITE, "", "large", [600], True])
def test_an_area_that_is_no_number_is_that_of_the_box(area):
    assert normalise("annotations", ANNOTATION | {"area": area})["area"] == 600


@pytest.mark.parametrize("area", [0, 0.5, 1e9, 2**80])
def test_any_other_area_stays(area):
    found = normalise("annotations", ANNOTATION | {"area": area})["area"]
    assert found == area and np.isfinite(np.array([found])).all()


def test_areas_of_huge_boxes_are_numbers_that_arrays_hold():
    entry = {key: value for key, value in ANNOTATION.items() if key != "area"} | {"bbox": [0, 0, 10**15, 10**15]}
    areas = [fill("annotations", entry)["area"], normalise("annotations", entry | {"area": None})["area"]]
    assert np.digitize(areas, (32**2, 96**2)).tolist() == [2, 2] and areas == [1e30, 1e30]


@pytest.mark.parametrize(
    ("value", "crowd"),
    [(None, 0), (True, 1), (False, 0), ("1", 1), ("0", 0), ("true", 1), (1.0, 1), (2, 1), ("", 0)],
)
def test_a_crowd_is_0_or_1(value, crowd):
    found = normalise("annotations", ANNOTATION | {"iscrowd": value})["iscrowd"]
    assert found == crowd and type(found) is int


@pytest.mark.parametrize(
    ("value", "kept"),
    [("a-b", "a-b"), (2**100, 2**100), (-3, -3), (5.0, 5), (1.5, "1.5"), ({"a": 1}, '{"a": 1}'), (True, "true")],
)
def test_an_annotation_id_is_anything_that_names(value, kept):
    assert normalise("annotations", ANNOTATION | {"id": value})["id"] == kept


def test_an_annotation_id_of_null_is_missing():
    assert "id" not in normalise("annotations", ANNOTATION | {"id": None})


@pytest.mark.parametrize(
    ("name", "text"),
    [(None, "3"), (5, "5"), (["a"], '["a"]'), ("\ud83d!", "\ufffd!"), (" ", "3"), ("_background_", "_background_")],
)
def test_names_are_text(name, text):
    wanted = {"id": 3, "name": text, "supercategory": text}
    assert normalise("categories", {"id": 3, "name": name, "supercategory": name}) == wanted
    if name is None:
        assert normalise("categories", {"id": 3}) == {"id": 3, "name": "3"}


UNUSABLE = {
    "no object": ("annotations", [], r"it is \[\]: it must be an object"),
    "no id": ("images", {"file_name": "a.jpg"}, "id is missing: ids of images and categories must be integers"),
    "UUID": ("images", IMAGE | {"id": "a1-b2"}, "id is 'a1-b2': .*must be integers; number them"),
    "underscore": ("images", IMAGE | {"id": "1_0"}, "must be integers"),
    "128 bits": ("images", IMAGE | {"id": 2**100}, "64 bits"),
    "no file name": ("images", {"id": 7}, "file_name is missing: it must be the path"),
    "empty file name": ("images", IMAGE | {"file_name": ""}, "file_name is ''"),
    "zero byte": ("images", IMAGE | {"file_name": "a\0"}, r"file_name is 'a\\x00'"),
    "half a character": ("images", IMAGE | {"file_name": "\udce4"}, r"file_name is '\\udce4'"),
    "image id": ("annotations", ANNOTATION | {"image_id": True}, "image_id is true"),
    "fraction": ("annotations", ANNOTATION | {"category_id": 1.5}, "category_id is 1.5"),
    "three numbers": ("annotations", ANNOTATION | {"bbox": [1, 2, 3]}, r"bbox is \[1, 2, 3\]: it must be four numbers"),
    "NaN": ("annotations", ANNOTATION | {"bbox": [1, 2, math.nan, 3]}, "four finite numbers"),
    "infinite": ("annotations", ANNOTATION | {"bbox": [1, 2, math.inf, 3]}, "four finite numbers"),
    "huge": ("annotations", ANNOTATION | {"bbox": [1, 2, 1e308, 3]}, "four finite numbers"),
    "comma": ("annotations", ANNOTATION | {"bbox": ["1,5", 2, 3, 4]}, "four finite numbers"),
    "crowd": ("annotations", ANNOTATION | {"iscrowd": "maybe"}, "iscrowd is 'maybe': it must be 0 or 1"),
    "category": ("categories", {"id": None, "name": "x"}, "id is null"),
}


@pytest.mark.parametrize(("key", "entry", "sentence"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_understood_is_named(key, entry, sentence):
    with pytest.raises(Unusable, match=sentence):
        normalise(key, entry)
