"""One document a file, and the same entries for every program."""

import json

import pytest

from detr_jax.datasets import coco, coco_stream, json_stream
from detr_jax.errors import UserError

TEXT = json.dumps(
    {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}],
        "categories": [{"id": 1, "name": "é"}],
        "info": {"year": 2026},
    },
    ensure_ascii=False,
)
REFUSED = {
    "two documents": (TEXT * 2, "more text follows its end, at byte"),
    "a brace more": (TEXT + "}", "more text follows its end"),
    "a key twice": (TEXT[:-1] + ', "annotations": []}', 'the key "annotations" is given a second time'),
    "a key twice in an entry": (TEXT.replace('"bbox"', '"image_id": 1, "bbox"'), '"image_id" is given twice in one'),
    "deep": (TEXT[:-1] + ', "x": ' + "[" * 150 + "]" * 150 + "}", "nested more than 100 levels"),
    "very deep": (TEXT[:-1] + ', "x": ' + "[" * 100_000, "nested more than 100 levels"),
    "deep in an entry": (TEXT.replace('"bbox"', f'"x": {"[" * 120}{"]" * 120}, "bbox"'), "nested more than 100"),
    "digits": (TEXT.replace('"image_id": 1', '"image_id": ' + "1" * 5000), "too many digits"),
    "UTF-16": (TEXT.encode("utf-16"), "it is UTF-16"),
    "Latin-1": (TEXT.encode("latin-1"), "it is not in UTF-8, at byte"),
    "gzip": (b"\x1f\x8b\x08\0", "it is gzip"),
    "comments": ("// made by hand\n" + TEXT, "expected { at byte 0"),
    "no quotes": ("{images: []}", "Expecting value at byte 1"),
    "number as key": ("{1: []}", "expected a key in quotes"),
    "an object": (TEXT.replace('[{"id": 1, "file', '{"id": 1, "file').replace('jpg"}]', 'jpg"}'), "images is {.*list"),
    "a long entry": ('{"x": "' + "a" * (9 << 20) + '"}', "longer than 8 MB"),
}


@pytest.mark.parametrize(("text", "sentence"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("reader", [coco_stream.scan, coco.read_annotations])
def test_one_document_a_file(tmp_path, reader, text, sentence):
    path = tmp_path / "instances.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=sentence) as error:
        reader(path)
    assert "instances.json" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("end", ["", " \r\n\t\n"])
def test_white_space_and_a_mark_of_the_byte_order_are_no_entries(tmp_path, end):
    path = tmp_path / "instances.json"
    path.write_text("\ufeff" + TEXT + end, encoding="utf-8")
    assert coco_stream.scan(path).is_normalised is False  # the size of its image is filled in
    annotations = coco.read_annotations(path)
    assert annotations["info"] == {"year": 2026} and annotations["categories"][0]["name"] == "é"
    assert annotations["annotations"] == [{"area": 4, "iscrowd": 0, **json.loads(TEXT)["annotations"][0]}]


def test_no_annotations_may_be_null_and_nothing_else(tmp_path):
    path, target = tmp_path / "instances.json", tmp_path / "copy.json"
    path.write_text(json.dumps(json.loads(TEXT) | {"annotations": None}))
    file = coco_stream.scan(path)
    assert len(file.image_id_of) == 0
    coco_stream.copy_normalised(file, {1: (4, 5)}, target)
    copy = json.loads(target.read_text())
    assert copy["annotations"] == [] and copy["images"] == [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 5}]


@pytest.mark.parametrize("chunk", [7, 1 << 20])
def test_a_copy_is_normal_and_leaves_other_letters_alone(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    sound = '{"image_id":1 ,"category_id": 1,\n"bbox":[0.10,0,2,1E0], "note": "\u00fc \\u00fc"}'
    text = TEXT.replace('"annotations": [', f'"annotations": [{sound}, ').replace("[0, 0, 2, 2]", '["0", 0, 2, 2]')
    path, target = tmp_path / "instances.json", tmp_path / "copy.json"
    path.write_text(text, encoding="utf-8")
    coco_stream.copy_normalised(coco_stream.scan(path), {1: (4, 5)}, target)
    assert sound in target.read_text(encoding="utf-8")
    assert coco_stream.scan(target).is_normalised
    filled = coco.read_annotations(path)
    assert filled["images"][0] | {"height": 4, "width": 5} == coco.read_annotations(target)["images"][0]
    assert {**filled, "images": 0} == {**coco.read_annotations(target), "images": 0}
