"""The one form of the entries of annotation files, whatever program wrote them.

``normalise`` takes an image, an annotation or a category as JSON has it and returns it in this form, or says which of
its fields cannot be understood:

- Numbers may be written as text. Ids are integers.
- A size that is no positive whole number is unknown, and left out: the image's own is meant.
- An image without ``file_name`` is called by the last folder and name of its ``coco_url``, as LVIS has it.
- Names are text. A category without a name, or with a blank one, is called by the category's id.
- ``area`` that is null, negative or no number is width times height; ``iscrowd`` is 0 or 1.
- The id of an annotation only names it in messages: it may be missing, repeat, or be any text.

An entry that is in this form already is returned as it is, so that files can be copied letter for letter. Optional
fields may be missing in files; ``fill`` adds them for those who read.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any

from detr_jax.datasets.defects import shown

LARGEST_ID = 2**63 - 1
LARGEST_SIDE = 2**31 - 1
LARGEST_NUMBER = 1e15  # of a box: beyond it, float64 does not tell one pixel from the next
_integer = re.compile(r"\s*[+-]?\d{1,30}\s*", re.ASCII)
_number = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_half_characters = re.compile("[\ud800-\udfff]")  # of \ud83d alone: no text in UTF-8 can hold it


class Unusable(Exception):
    """A field that cannot be brought into the one form. ``str`` says what it holds and what to give."""

    def __init__(self, field: str, value: Any, remedy: str):
        super().__init__(f"{field or 'it'} is {'missing' if value is _MISSING else shown(value)}: {remedy}")
        self.field = field


_MISSING = object()
_NUMBERS = (int, float)


def normalise(key: str, entry: Any) -> dict:
    """An entry of the array ``key`` ("images", "annotations" or "categories") in the one form.

    Returns ``entry`` itself if it is in this form already. Raises Unusable.
    """
    if not isinstance(entry, dict):
        raise Unusable("", entry, "it must be an object in braces")
    if key == "annotations" and _is_plain(entry):
        return entry
    changes = _RULES[key](entry)
    changes = {field: value for field, value in changes.items() if value is None or value is not entry.get(field)}
    if not changes:
        return entry
    return {field: value for field, value in (entry | changes).items() if value is not None or field not in changes}


def fill(key: str, entry: dict) -> dict:
    """A normalised entry with the optional fields that it lacks."""
    if key == "annotations" and not ("area" in entry and "iscrowd" in entry):
        return {"area": _box_area(entry["bbox"]), "iscrowd": 0} | entry
    return entry


def number_of(value: Any) -> int | float | None:
    """A finite number, or the one that a text spells; None of anything else."""
    if isinstance(value, str) and len(value) < 400 and _number.fullmatch(value):
        value = int(value) if _integer.fullmatch(value) else float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        return None
    return value


def _integer_of(entry: dict, field: str) -> int:
    """A required id."""
    value = entry.get(field, _MISSING)
    number = number_of(value)
    if number is None or number != int(number):
        remedy = "ids of images and categories must be integers"
        if isinstance(value, str):
            remedy += "; number them, and write the same numbers into the annotations"
        raise Unusable(field, value, remedy)
    if abs(number) > LARGEST_ID:
        raise Unusable(field, value, "it must fit into 64 bits")
    return number if isinstance(number, int) else int(number)


def _image(entry: dict) -> dict:
    name = entry.get("file_name", _MISSING)
    if name is _MISSING and isinstance(entry.get("coco_url"), str):  # LVIS names its images so: .../val2017/7.jpg
        name = "/".join(entry["coco_url"].split("/")[-2:])
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not name.strip() or _half_characters.search(name) or "\0" in name:
        raise Unusable("file_name", name, "it must be the path of the image below the folder of images")
    fields = {"id": _integer_of(entry, "id"), "file_name": name}
    sides = {field: _side_of(entry[field]) for field in ("height", "width") if field in entry}
    if len(sides) < 2 or None in sides.values():  # one alone is no size
        sides = dict.fromkeys(sides)
    return fields | sides


def _side_of(value: Any) -> int | None:
    number = number_of(value)
    if number is None or not 0 < number <= LARGEST_SIDE or number != int(number):
        return None
    return number if isinstance(number, int) else int(number)


def _is_plain(entry: dict) -> bool:
    """Whether an annotation is surely in the one form, as nearly all are; the rules take five times as long."""
    box, image_id, category_id = entry.get("bbox"), entry.get("image_id"), entry.get("category_id")
    area, own_id = entry.get("area", 0), entry.get("id", 0)
    if not type(image_id) is type(category_id) is type(own_id) is type(entry.get("iscrowd", 0)) is int:
        return False
    if type(box) is not list or len(box) != 4 or type(area) not in _NUMBERS or not 0 <= area < LARGEST_NUMBER:
        return False
    x, y, width, height = box
    if not (type(x) in _NUMBERS and type(y) in _NUMBERS and type(width) in _NUMBERS and type(height) in _NUMBERS):
        return False
    are_ids = max(abs(image_id), abs(category_id)) <= LARGEST_ID and 0 <= entry.get("iscrowd", 0) <= 1
    return are_ids and abs(x) + abs(y) + abs(width) + abs(height) < LARGEST_NUMBER  # False of NaN, too


def _annotation(entry: dict) -> dict:
    fields = {field: _integer_of(entry, field) for field in ("image_id", "category_id")}
    fields["bbox"] = box = _box_of(entry.get("bbox", _MISSING))
    if "id" in entry:
        fields["id"] = _annotation_id_of(entry["id"])
    if "area" in entry:
        area = number_of(entry["area"])
        fields["area"] = _box_area(box) if area is None or area < 0 else _in_64_bits(area)
    if "iscrowd" in entry:
        fields["iscrowd"] = _crowd_of(entry["iscrowd"])
    return fields


def _box_of(value: Any) -> list:
    if not isinstance(value, list) or len(value) != 4:
        raise Unusable("bbox", value, "it must be four numbers, [x, y, width, height]")
    numbers = [number_of(side) for side in value]
    if any(number is None or abs(number) > LARGEST_NUMBER for number in numbers):
        raise Unusable("bbox", value, "it must be four finite numbers, [x, y, width, height]")
    return value if all(one is other for one, other in zip(numbers, value, strict=True)) else numbers


def _box_area(box: list) -> int | float:
    return _in_64_bits(max(box[2], 0) * max(box[3], 0))


def _in_64_bits(number: int | float) -> int | float:
    return number if number < LARGEST_NUMBER else float(number)


def _annotation_id_of(value: Any) -> int | str | None:
    """Any number or text; None, which leaves it out, of null."""
    if value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return shown(value)


def _crowd_of(value: Any) -> int:
    if value is None or value == "" or isinstance(value, bool):
        return int(bool(value))
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return int(value.strip().lower() == "true")
    number = number_of(value)
    if number is None:
        raise Unusable("iscrowd", value, "it must be 0 or 1")
    return number if number in (0, 1) and isinstance(number, int) else int(number != 0)


def _category(entry: dict) -> dict:
    category_id = _integer_of(entry, "id")
    fields = {"id": category_id, "name": _name_of(entry.get("name"), category_id)}
    if "supercategory" in entry:
        fields["supercategory"] = _name_of(entry["supercategory"], category_id)
    return fields


def _name_of(value: Any, category_id: int) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        return str(category_id)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return _half_characters.sub("\N{REPLACEMENT CHARACTER}", text) if _half_characters.search(text) else text


_RULES: dict[str, Callable[[dict], dict]] = {"images": _image, "annotations": _annotation, "categories": _category}
