"""A COCO annotation file of any size as columns, and what may be wrong in it.

``scan`` reads the file in a stream and remembers where the text of each annotation is, so that it can be copied letter
for letter; ``find_defects`` names everything that training would stop on; ``tally`` tells which annotations are trained
on; ``copy_normalised`` writes the file in the one form of ``normalise``.
"""

import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Int64, Shaped

from detr_jax.datasets import coco, defects
from detr_jax.datasets.annotation_file import ENTRIES, UNREADABLE, Entry, read_entries
from detr_jax.datasets.defects import NAMED, Culprits, Defect, shorten, shown
from detr_jax.datasets.normalise import LARGEST_ID, normalise
from detr_jax.structures import Categories

TOGETHER = 1 << 16  # bytes between annotations that are rather read than skipped


class CocoFile(NamedTuple):
    """One annotation file as columns: M images and A annotations in the order of the file."""

    path: Path
    categories: Categories
    unreadable: list[Defect]  # entries that are not among the columns
    is_normalised: bool  # whether every entry has the one form already
    image_ids: Int64[np.ndarray, " M"]
    file_names: list[str]
    sizes: Int64[np.ndarray, "M 2"]  # (height, width); (0, 0) where the file does not say
    annotation_ids: Int64[np.ndarray, " A"]  # -1 where the file does not say, or something else than a small integer
    image_id_of: Int64[np.ndarray, " A"]
    category_id_of: Int64[np.ndarray, " A"]
    is_crowd: Bool[np.ndarray, " A"]
    is_changed: Bool[np.ndarray, " A"]  # whether the file has it in another form than the normalised one
    boxes_xywh_pixels: Float[np.ndarray, "A 4"]
    spans: Int64[np.ndarray, "A 2"]  # the text of the annotation is the bytes [start, end) of the file

    def select_images(self, keep: Bool[np.ndarray, " M"]) -> "CocoFile":
        """Without the images where ``keep`` is False, and without their annotations."""
        kept = ~np.isin(self.image_id_of, self.image_ids[~keep])
        return self._replace(
            image_ids=self.image_ids[keep],
            file_names=[name for name, wanted in zip(self.file_names, keep, strict=True) if wanted],
            sizes=self.sizes[keep],
            **{name: getattr(self, name)[kept] for name in _ANNOTATION_COLUMNS},
        )

    def annotation_texts(self) -> Iterator[tuple[int, str]]:
        """For each image in ascending id: its row, and the JSON array of its annotations.

        An annotation that the file has in the one form is its text, letter for letter.
        """
        order = np.argsort(self.image_id_of, kind="stable")
        rows = np.argsort(self.image_ids, kind="stable")
        starts = np.searchsorted(self.image_id_of[order], self.image_ids[rows], side="left").tolist()
        ends = np.searchsorted(self.image_id_of[order], self.image_ids[rows], side="right").tolist()
        spans, changed = self.spans[order].tolist(), self.is_changed[order].tolist()
        with open(self.path, "rb", buffering=0) as stream:
            for row, start, end in zip(rows.tolist(), starts, ends, strict=True):
                texts = _read_spans(stream.fileno(), spans[start:end])
                yield row, "[" + ", ".join(map(_normalise_text, texts, changed[start:end])) + "]"


_ANNOTATION_COLUMNS = CocoFile._fields[CocoFile._fields.index("annotation_ids") :]


def _read_spans(file: int, spans: list[list[int]]) -> list[str]:
    """The texts of some annotations; in one piece if they stand together, as those of one image mostly do."""
    if not spans:
        return []
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    if last - first > 2 * sum(end - start for start, end in spans) + TOGETHER:
        return [os.pread(file, end - start, start).decode() for start, end in spans]
    piece = os.pread(file, last - first, first)
    return [piece[start - first : end - first].decode() for start, end in spans]


def _normalise_text(text: str, is_changed: bool) -> str:
    return json.dumps(normalise("annotations", json.loads(text)), ensure_ascii=False) if is_changed else text


_INTEGERS = ("image_ids", "sizes", "annotation_ids", "image_id_of", "category_id_of", "is_crowd", "is_changed", "spans")


class _Columns:
    """Collects the columns of a file, entry by entry, as compact arrays."""

    def __init__(self):
        self.categories: list[dict] = []
        self.file_names: list[str] = []
        self.boxes = array("d")
        names = (
            "image_ids",
            "sizes",
            "annotation_ids",
            "image_id_of",
            "category_id_of",
            "is_crowd",
            "is_changed",
            "spans",
        )
        self.integers = {name: array("q") for name in names}
        self.is_normalised = True

    def add(self, entry: Entry) -> None:
        """Adds a normalised entry of "images", "annotations" or "categories"."""
        value, columns = entry.value, self.integers
        self.is_normalised &= not entry.is_changed
        if entry.number is None:
            return
        if entry.key == "images":
            has_size = "height" in value and "width" in value
            columns["image_ids"].append(value["id"])
            columns["sizes"].extend((value["height"], value["width"]) if has_size else (0, 0))
            self.file_names.append(value["file_name"])
            self.is_normalised &= has_size
        elif entry.key == "annotations":
            own_id = value.get("id")
            self.boxes.extend(value["bbox"])
            columns["annotation_ids"].append(own_id if isinstance(own_id, int) and 0 <= own_id <= LARGEST_ID else -1)
            columns["image_id_of"].append(value["image_id"])
            columns["category_id_of"].append(value["category_id"])
            columns["is_crowd"].append(value.get("iscrowd", 0))
            columns["is_changed"].append(entry.is_changed)
            columns["spans"].extend((entry.start, entry.end))
        else:
            self.categories.append(value)

    def finish(self, path: Path, categories: Categories, unreadable: list[Defect]) -> CocoFile:
        columns = {name: np.array(values, np.int64) for name, values in self.integers.items()}
        columns["sizes"], columns["spans"] = columns["sizes"].reshape(-1, 2), columns["spans"].reshape(-1, 2)
        columns["is_crowd"], columns["is_changed"] = (
            columns["is_crowd"].astype(bool),
            columns["is_changed"].astype(bool),
        )
        columns["boxes_xywh_pixels"] = np.array(self.boxes).reshape(-1, 4)
        return CocoFile(path, categories, unreadable, self.is_normalised, file_names=self.file_names, **columns)


def scan(path: str | os.PathLike) -> CocoFile:
    """Reads an annotation file of any size in a stream; memory grows by about 120 bytes an annotation.

    Raises UserError when there is no such file, when it is not JSON or JSON of another kind, when nothing is listed,
    and when a category id is used twice. What can be read but is wrong is for ``find_defects``.
    """
    path, columns, culprits = Path(path), _Columns(), Culprits()
    for entry in read_entries(path, culprits):
        if entry.key in ENTRIES:
            columns.add(entry)
    return columns.finish(path, coco.read_categories(path, columns.categories), culprits.defects())


def copy_normalised(file: CocoFile, sizes: Mapping[int, tuple[int, int]], target: Path) -> None:
    """Writes the annotation file with every entry in the one form; what has it already stays letter for letter.

    Args:
      sizes: (height, width) by the id of an image, for those whose size the file does not state.
    """
    if file.is_normalised:
        shutil.copyfile(file.path, target)
        return
    with open(file.path, "rb") as source, open(target, "wb") as copy:
        for entry in read_entries(file.path, Culprits()):
            value, is_changed = entry.value, entry.is_changed
            if entry.key == "images" and entry.number and "height" not in value and value["id"] in sizes:
                height, width = sizes[value["id"]]
                value, is_changed = value | {"height": height, "width": width}, True
            if is_changed:
                _copy_bytes(source, copy, entry.start)
                copy.write(json.dumps(value, ensure_ascii=False).encode())
                source.seek(entry.end)
        shutil.copyfileobj(source, copy)


def _copy_bytes(source: BinaryIO, copy: BinaryIO, end: int) -> None:
    """Copies what lies between here and ``end``."""
    while (rest := end - source.tell()) > 0:
        copy.write(source.read(min(rest, 1 << 20)))


class Tally(NamedTuple):
    """How the annotations of a file divide. Each column holds one row an image or one an annotation."""

    targets_of_image: Int32[np.ndarray, " M"]
    annotations_of_image: Int32[np.ndarray, " M"]
    is_target: Bool[np.ndarray, " A"]
    is_degenerate: Bool[np.ndarray, " A"]  # not a crowd, and without area inside the image


def tally(file: CocoFile, sizes: Int[np.ndarray, "M 2"]) -> Tally:
    """Which annotations are trained on, given the true (height, width) of every image.

    The file must be free of defects.
    """
    by_id = np.argsort(file.image_ids)
    row = by_id[np.searchsorted(file.image_ids, file.image_id_of, sorter=by_id)]
    _, has_area = coco.clip_boxes(file.boxes_xywh_pixels, sizes[row])
    is_target = has_area & ~file.is_crowd
    count = len(file.image_ids)
    return Tally(
        np.bincount(row[is_target], minlength=count).astype(np.int32),
        np.bincount(row, minlength=count).astype(np.int32),
        is_target,
        ~has_area & ~file.is_crowd,
    )


def find_defects(file: CocoFile) -> list[Defect]:
    """What is wrong in an annotation file whatever its images are like, each with its image or annotation id."""
    negative = (file.boxes_xywh_pixels[:, 2:] < 0).any(axis=1)
    unlisted_images = ~np.isin(file.image_id_of, file.image_ids)
    unlisted_categories = ~np.isin(file.category_id_of, file.categories.ids)
    if any(defect.kind.startswith(UNREADABLE) for defect in file.unreadable):
        unlisted_images[:] = unlisted_categories[:] = False  # they may belong to entries that cannot be understood

    def name(row: int) -> str:
        return describe_annotation(file, row)

    found = [
        collect(defects.REPEATED_IMAGE_ID, mark_repeats(file.image_ids), lambda i: f"image {file.image_ids[i]}"),
        collect(defects.NO_IMAGE, unlisted_images, name),
        collect(defects.NO_CATEGORY, unlisted_categories, lambda i: f"{name(i)} has category {file.category_id_of[i]}"),
        collect(defects.NEGATIVE, negative, lambda i: f"{name(i)} {file.boxes_xywh_pixels[i].tolist()}"),
        collect(
            defects.REPEATED_ANNOTATION_ID,
            mark_repeats(file.annotation_ids) & (file.annotation_ids >= 0),
            lambda i: f"annotation {file.annotation_ids[i]}",
            stops=False,
        ),
    ]
    return file.unreadable + [defect for defect in found if defect.count]


def collect(kind: str, wrong: Bool[np.ndarray, " n"], name: Callable[[int], str], stops: bool = True) -> Defect:
    """The rows that are ``wrong`` as one defect, each called ``name(row)``; its count may be 0."""
    rows = np.flatnonzero(wrong)
    return Defect(kind, len(rows), tuple(name(row) for row in rows[:NAMED].tolist()), stops)


def describe_annotation(file: CocoFile, row: int) -> str:
    """Names one annotation by its id, or by its place in the file where it has none, and by its image.

    What was made from another format is also named by the file and the object there.
    """
    with open(file.path, "rb", buffering=0) as stream:
        (text,) = _read_spans(stream.fileno(), [file.spans[row].tolist()])
    own = normalise("annotations", json.loads(text))
    name = str(file.annotation_ids[row])
    if file.annotation_ids[row] < 0:
        name = shown(own["id"]) if "id" in own else f"number {row + 1}"
    source = f" ({shorten(str(own['source']))})" if "source" in own else ""
    return f"annotation {name} of image {file.image_id_of[row]}{source}"


def mark_repeats(values: Shaped[np.ndarray, "..."]) -> Bool[np.ndarray, " n"]:
    """True at every occurrence of a value (or a row) but its first."""
    _, first = np.unique(values, return_index=True, axis=0)
    repeated = np.ones(len(values), bool)
    repeated[first] = False
    return repeated
