"""The one reader of COCO annotation files: every program sees their entries as this module gives them.

A file is read once, in a stream. Each entry is brought into the one form of ``normalise``, or becomes a defect.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from detr_jax.datasets import json_stream, normalise
from detr_jax.datasets.defects import Culprits, printable, shown
from detr_jax.errors import UserError

ENTRIES = ("images", "annotations", "categories")
WANTED = "give a COCO instances file, an object with images, annotations (with bbox) and categories"
UNREADABLE = "entry that cannot be understood"


class Entry(NamedTuple):
    """One normalised image, annotation or category, or the value of another key as it is."""

    key: str
    number: int | None  # in its array, from 1; None of a value that is no element of an array
    value: Any  # [] of an array without entries
    start: int  # the entry is the bytes [start, end) of the file
    end: int
    is_changed: bool  # whether the file has it in another form

    @property
    def text(self) -> str:
        """The normalised entry as JSON."""
        return json.dumps(self.value, ensure_ascii=False)


def read_entries(path: Path, culprits: Culprits) -> Iterator[Entry]:
    """Yields the entries of a file in their order; those that cannot be understood become ``culprits``.

    Raises UserError when there is no such file, when it is not one JSON document or one of another kind, and when
    nothing is listed that could be annotated.
    """
    first: dict[str | None, Any] = {}  # of each key one entry, enough to tell what kind of file it is
    try:
        for element in json_stream.elements(path):
            if element.key not in first:
                first[element.key] = element.value
                _refuse_other_kinds(path, first)
            if element.key not in ENTRIES:
                yield Entry(*element, is_changed=False)
            elif element.number is None:
                yield from _no_entries(path, element)
                first[element.key] = []
            elif entry := _normalised(element, culprits):
                yield entry
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the path of a COCO annotation file") from error
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error}): export or download the file again") from error
    _refuse_incomplete(path, first)


def _no_entries(path: Path, element: json_stream.Element) -> Iterator[Entry]:
    """An array without entries, or the null that some programs write for it."""
    if element.value is None:
        yield Entry(element.key, None, [], element.start, element.end, is_changed=True)
    elif element.value != []:
        raise UserError(f"{path}: {element.key} is {shown(element.value)}: it must be a list of entries; {WANTED}")


def _normalised(element: json_stream.Element, culprits: Culprits) -> Entry | None:
    key, number, given, start, end = element
    try:
        value = normalise.normalise(key, given)
    except normalise.Unusable as error:
        name = shown(given["id"]) if isinstance(given, dict) and "id" in given else "none"
        kind = f"{UNREADABLE}, by its {error.field}" if error.field else UNREADABLE
        culprits.add(kind, f"{key} number {number:,} (id {name}): {error}")
        return None
    return Entry(key, number, value, start, end, value is not given)


def _refuse_other_kinds(path: Path, first: dict[str | None, Any]) -> None:
    """Raises UserError, which names the kind, when a file is of a known kind but no ground truth for detection.

    Args:
      first: of each top-level key the value, or of an array its first element. The key of a file that is one array is
        None.
    """

    def has(key: str | None, *names: str) -> bool:
        return isinstance(first.get(key), dict) and set(names) <= set(first[key])

    kinds = {
        "a list of detections (COCO results)": has(None, "image_id", "score"),
        "a list": None in first,
        "a panoptic annotation file": has("annotations", "segments_info"),
        "a caption file": has("annotations", "caption"),
        "a LabelMe file of one image": "imagePath" in first,
        "a VGG Image Annotator project": any(str(key).startswith("_via") for key in first),
    }
    kind = next((kind for kind, matches in kinds.items() if matches), None)
    if kind:
        raise UserError(f"{path} is {kind}: {WANTED}")


def _refuse_incomplete(path: Path, first: dict[str | None, Any]) -> None:
    """Raises UserError when images, annotations or categories are missing, or no image or category is listed."""
    missing = [key for key in ENTRIES if key not in first]
    if missing:
        keys = ", ".join(printable(str(key))[:40] for key in list(first)[:9]) or "nothing"
        raise UserError(f"{path} holds {keys} but no {' and no '.join(missing)}: {WANTED}; annotations may be []")
    for key in ("images", "categories"):
        if first[key] == []:
            raise UserError(f"{path} lists no {key}: export the file again with its {key}")
