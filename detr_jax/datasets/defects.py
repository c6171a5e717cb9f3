"""What may be wrong with a dataset: kinds of defects, what they probably mean, and how they are told."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from detr_jax.errors import UserError

NAMED = 1000  # culprits of a kind that are kept; more are only counted
EXAMPLES = 3  # culprits that a sentence names
SHOWN = 80  # characters of a value that a message shows
# Control characters, halves of surrogate pairs and overrides of the direction would garble the line that shows them.
_unprintable = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Defect(NamedTuple):
    """Everything of one kind that is wrong with a split."""

    kind: str  # the same phrase for all of a kind
    count: int
    where: tuple[str, ...]  # the culprits, of which the first ``NAMED`` are kept
    stops: bool = True  # the preparation; if False, it is only said

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self, examples: int = EXAMPLES) -> str:
        """The kind, how many there are, some culprits, and what it most probably means."""
        shown_ones = self.where[:examples]
        more = "; ..." if self.count > len(shown_ones) else ""
        meaning = MEANINGS.get(self.kind)
        return f"{self.kind}: {self.count:,} ({'; '.join(shown_ones)}{more})" + (f": {meaning}" if meaning else "")


class Culprits:
    """Collects the culprits of each kind, of which only the first ``NAMED`` are kept."""

    def __init__(self):
        self._counts: dict[tuple[str, bool], int] = {}
        self._names: dict[tuple[str, bool], list[str]] = {}

    def add(self, kind: str, where: str, stops: bool = True) -> None:
        """Adds one culprit."""
        key = kind, stops
        self._counts[key] = self._counts.get(key, 0) + 1
        names = self._names.setdefault(key, [])
        if len(names) < NAMED:
            names.append(where)

    def defects(self) -> list[Defect]:
        """One a kind, in the order in which the kinds were met."""
        return [Defect(kind, n, tuple(self._names[kind, stops]), stops) for (kind, stops), n in self._counts.items()]


class DefectiveData(UserError):
    """Defects that stop; ``defects`` are all that were found, by split."""

    def __init__(self, sentence: str, found: dict[str, list[Defect]]):
        super().__init__(sentence)
        self.defects = found

    def describe(self) -> list[str]:
        """Lines for the user, with every defect."""
        return [line for split, found in self.defects.items() for line in describe_defects(split, found)]


def describe_defects(split: str, found: list[Defect]) -> list[str]:
    """A line for each kind, with some examples."""
    return [f"{split}: {'STOPS' if defect.stops else 'warning'}: {defect}" for defect in found]


def refuse_defects(found: dict[str, list[Defect]], files: dict[str, Path], remedy: str | None = None) -> None:
    """Raises DefectiveData for the first kind of defect that stops: how many, which, what to do.

    Args:
      found: defects by split.
      files: the annotation file of each split.
      remedy: what to do, where that of the kind is not enough.
    """
    stopping = [(split, defect) for split, ones in found.items() for defect in ones if defect.stops]
    if stopping:
        split, defect = stopping[0]
        others = len({other.kind for _, other in stopping}) - 1
        more = f" (and {others} other kind{'s' if others > 1 else ''} of defect)" if others else ""
        remedy = remedy or REMEDIES.get(defect.kind, CORRECT)
        raise DefectiveData(f"{shorten(str(files[split]), 300)}: {defect}{more}: {remedy}", found)


def shown(value: Any) -> str:
    """A value of JSON as a message shows it: one line, shortened, text in quotes."""
    return f"'{shorten(value)}'" if isinstance(value, str) else shorten(_as_json(value))


def shorten(text: str, length: int = SHOWN) -> str:
    """A text as a message shows it: one line, so many characters."""
    return printable(text if len(text) <= length else f"{text[:length]}... ({len(text):,} characters)")


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def printable(text: str) -> str:
    """The text with escapes in place of characters that would garble the line."""
    return _unprintable.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


TINY_BOX = "box that is less than a pixel wide or high"
BEYOND = "box that reaches beyond its image by more than a pixel"
NO_AREA = "box without area in the image, not trained on"
REPEATED_BOX = "box that is given twice, with the same class in the same image"
FRACTIONS = "box between 0 and 1, as all of them are"
CORNERS = "box that looks like corners, [x0, y0, x1, y1], as all of them do"
NEGATIVE = "box of negative width or height (COCO boxes are x, y, width, height)"
REPEATED_ANNOTATION_ID = "annotation id used twice"
REPEATED_IMAGE_ID = "image id used twice"
NO_IMAGE = "annotation of an image that is not listed"
NO_CATEGORY = "annotation of a category that is not listed"
MISSING = "image file not found"
SAME_FILE = "image that names the same file as another"
SAME_BASE_NAME = "image whose file is found by its base name only, which another image claims too"
OUTSIDE = "image file outside of the image folder"
BROKEN = "image that cannot be used"
DAMAGED = "file of the dataset that is damaged"
TURNED = "image that viewers turn, annotated as it is stored"
UNSURE_TURN = "image that viewers turn or mirror without a change of size"
FRAMES = "image file with several pictures"
LEAKED = "the same picture in another split"
COPIED = "the same picture under two names"
MEANINGS = {
    TINY_BOX: "slips of the mouse, or fractions of the image instead of pixels",
    BEYOND: "boxes that were made on an image of another size; training clips them",
    NO_AREA: "slips of the mouse, or boxes of another image",
    REPEATED_BOX: "annotations that were merged or saved twice; each counts as an object",
    FRACTIONS: "fractions of the image's width and height, as in YOLO; multiply them, COCO's boxes are pixels",
    CORNERS: "write [x0, y0, x1 - x0, y1 - y0]; COCO's boxes are [x, y, width, height]",
    NEGATIVE: "corners in the wrong order",
    REPEATED_ANNOTATION_ID: "files that were merged, or numbers that begin again in each image; nothing here uses them",
    REPEATED_IMAGE_ID: "files that were merged; give each image an id of its own",
    NO_IMAGE: "images that were removed from the list, but not their annotations",
    NO_CATEGORY: "categories that were removed from the list, but not their annotations",
    SAME_FILE: "each of them is trained on with its own part of the annotations; list a file once",
    SAME_BASE_NAME: "an export in which one file replaced another of the same name; export the images again",
    TURNED: "it is left as it is stored, as the stated size says",
    UNSURE_TURN: "it is turned as its EXIF orientation says; look at the boxes with python -m detr_jax.dataset show",
    FRAMES: "only the first picture is used",
    LEAKED: "what is scored in one was learned in the other",
    COPIED: "each of them is trained on with its own annotations",
}
CORRECT = "correct the file (python -m detr_jax.dataset check names every one)"
LEAVE_OUT = "pass --skip_missing to leave them out"
REMEDIES = {
    MISSING: f"add them, or {LEAVE_OUT}",
    SAME_BASE_NAME: f"correct the file names, or {LEAVE_OUT}",
    OUTSIDE: "copy them into the folder and correct the file names, or pass --allow_outside if you trust the file",
    BROKEN: "replace them, or pass --skip_broken to leave them out",
}
