"""Reading COCO annotations: the rule of training targets, other kinds of files, the columns of large ones."""

import json

import numpy as np
import pytest

from detr_jax.datasets import coco_stream as coco_columns, coco as coco_json, json_stream
from detr_jax.errors import UserError

GROUND_TRUTH = {
    "info": {"note": "ünïcode, \\u escapes \u4e2d and [brackets] {in} strings"},
    "images": [
        {"id": 30, "file_name": "b.jpg", "height": 40, "width": 60},
        {"id": 10, "file_name": "ä.jpg", "height": 40, "width": 60},
        {"id": 20, "file_name": "empty.jpg", "height": 40, "width": 60},
    ],
    "annotations": [
        {"id": 1, "image_id": 30, "category_id": 12, "bbox": [1.1, 2.2, 10.3, 20.4], "iscrowd": 0, "area": 210.12},
        {"id": 2, "image_id": 10, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": 1, "area": 25},
        {"id": 3, "image_id": 30, "category_id": 3, "bbox": [-5, 30, 20, 20], "iscrowd": 0, "area": 400},
        {"id": 4, "image_id": 30, "category_id": 3, "bbox": [70, 5, 10, 10], "iscrowd": 0, "area": 100},
        {"id": 5, "image_id": 10, "category_id": 7, "bbox": [5, 5, 0, 10], "area": 0},
    ],
    "categories": [{"id": 12, "name": "tri"}, {"id": 3, "name": "c"}, {"id": 7, "name": "日本"}],
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(GROUND_TRUTH, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def test_coco_has_80_classes_with_ids_up_to_90():
    table = coco_json.COCO_CATEGORIES
    assert len(table.ids) == len(set(table.names)) == 80
    named = dict(zip(table.names, table.ids, strict=True))
    assert (named["person"], named["stop sign"], named["parking meter"]) == (1, 13, 14)
    assert (named["dining table"], named["toilet"], named["toothbrush"]) == (67, 70, 90)


def test_coco_table_is_the_one_of_the_official_file(real_data):
    official = coco_json.read(real_data / "coco128/annotations/instances_train2017.json")
    assert coco_json.categories(official) == coco_json.COCO_CATEGORIES


def test_targets_drop_crowds_clamp_and_drop_what_has_no_area():
    categories = coco_json.categories(GROUND_TRUTH)
    assert categories.ids == (3, 7, 12)
    own = [row for row in GROUND_TRUTH["annotations"] if row["image_id"] == 30]
    boxes, labels = coco_json.training_targets(GROUND_TRUTH["images"][0], own, categories)
    np.testing.assert_allclose(boxes, [[1.1, 2.2, 11.4, 22.6], [0, 30, 15, 40]], rtol=1e-6)
    assert labels.tolist() == [2, 0]
    boxes, labels = coco_json.training_targets(GROUND_TRUTH["images"][2], [], categories)
    assert boxes.shape == (0, 4) and labels.shape == (0,)


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


def test_scan_keeps_every_annotation_letter_for_letter(file):
    coco = coco_columns.scan(file)
    assert coco.file_names == ["b.jpg", "ä.jpg", "empty.jpg"]
    assert coco.categories.names == ("c", "日本", "tri")
    texts = [(coco.image_ids[row], json.loads(text)) for row, text in coco.texts()]
    rows = GROUND_TRUTH["annotations"]
    assert texts == [(10, [rows[1], rows[4]]), (20, []), (30, [rows[0], rows[2], rows[3]])]


def test_tally_agrees_with_the_targets_of_each_image(file):
    coco = coco_columns.scan(file)
    tally = coco_columns.tally(coco, coco.sizes)
    categories = coco_json.categories(GROUND_TRUTH)
    for row, image in enumerate(GROUND_TRUTH["images"]):
        own = [row for row in GROUND_TRUTH["annotations"] if row["image_id"] == image["id"]]
        assert tally.targets_of_image[row] == len(coco_json.training_targets(image, own, categories)[1])
    assert tally.is_degenerate.tolist() == [False, False, False, True, True]


def test_part_of_a_file_keeps_rows_as_they_are_and_fills_in_sizes():
    bare = {
        "images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "b"}],
        "annotations": [{"id": 0, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 3]}]
        + [{"id": 1, "image_id": 2, "category_id": 1, "bbox": [0, 0, 2, 3], "iscrowd": 1, "area": 5}],
        "categories": [{"id": 1, "name": "x"}],
    }
    part = coco_json.of_images(bare, {1: (4, 5)})
    assert part["images"] == [{"id": 1, "file_name": "a", "height": 4, "width": 5}]
    assert part["annotations"] == bare["annotations"][:1]
    assert len(bare["images"]) == 2


def without(key):
    return {name: value for name, value in GROUND_TRUTH.items() if name != key}


def with_annotation(**changes):
    row = {"id": 1, "image_id": 30, "category_id": 3, "bbox": [0, 0, 2, 2]} | changes
    return GROUND_TRUTH | {"annotations": [{key: value for key, value in row.items() if value is not None}]}


UNREADABLE = {
    "cut in the middle": (json.dumps(GROUND_TRUTH)[:-40], "not readable JSON"),
    "empty": ("", "not readable JSON"),
    "not JSON": ("<annotation>", "not readable JSON"),
    "detections": ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}], "list of detections"),
    "a list": ([1, 2], "is a list"),
    "panoptic": (GROUND_TRUTH | {"annotations": [{"segments_info": [], "image_id": 1}]}, "panoptic"),
    "captions": (GROUND_TRUTH | {"annotations": [{"caption": "a dog", "image_id": 1, "id": 1}]}, "caption"),
    "LabelMe": ({"version": "5", "shapes": [], "imagePath": "a.jpg"}, "LabelMe"),
    "something else": ({"name": "x", "files": []}, "holds name, files but no images"),
    "no categories": (without("categories"), "no categories"),
    "no annotations": (GROUND_TRUTH | {"annotations": []}, "lists no annotations"),
    "no images": (GROUND_TRUTH | {"images": []}, "lists no images"),
}
MALFORMED = {
    "no bbox": (with_annotation(bbox=None), "'bbox' is missing in the annotations entry"),
    "three numbers": (with_annotation(bbox=[1, 2, 3]), "bbox is not four numbers"),
    "text as id": (with_annotation(image_id="a"), "wrong type"),
    "category id twice": (GROUND_TRUTH | {"categories": [{"id": 3, "name": "a"}] * 2}, "category id 3 is used twice"),
}


@pytest.mark.parametrize(("content", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("reader", [coco_columns.scan, coco_json.read])
def test_other_files_are_refused_by_name(tmp_path, reader, content, sentence):
    path = tmp_path / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=sentence) as error:
        reader(path)
    assert "instances.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "sentence"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_entries_are_named(tmp_path, content, sentence):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        coco_columns.scan(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        coco_columns.scan(tmp_path / "nope.json")


DEFECTS = {
    "image not listed": (with_annotation(image_id=99), "image that is not listed", "annotation 1 of image 99"),
    "category not listed": (with_annotation(category_id=99), "category that is not listed", "has category 99"),
    "NaN": (with_annotation(bbox=[0, 0, float("nan"), 2]), "not finite", "annotation 1 of image 30"),
    "negative": (with_annotation(bbox=[9, 9, -2, 2]), "negative width or height", "annotation 1 of image 30"),
    "no own id": (with_annotation(id=None, category_id=99), "category", "annotation number 1 of image 30"),
    "annotation id twice": (
        GROUND_TRUTH | {"annotations": GROUND_TRUTH["annotations"][:1] * 2},
        "annotation id used twice",
        "annotation 1",
    ),
    "image id twice": (
        GROUND_TRUTH | {"images": GROUND_TRUTH["images"] + GROUND_TRUTH["images"][:1]},
        "image id used twice",
        "image 30",
    ),
}


@pytest.mark.parametrize(("content", "kind", "where"), DEFECTS.values(), ids=DEFECTS)
def test_defects_are_named_by_their_id(tmp_path, content, kind, where):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    (defect,) = coco_columns.defects(coco_columns.scan(path))
    assert kind in defect.kind and where in defect.where and defect.stops
