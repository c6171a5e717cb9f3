"""A COCO annotation file of any size as columns, and what may be wrong in it.

``scan`` reads the file in a stream and remembers where the text of each annotation is, so that it can be copied byte
for byte; ``find_defects`` names everything that training would stop on; ``tally`` tells which annotations are trained
on.
"""

import json
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Int64

from detr_jax.datasets import coco, json_stream
from detr_jax.errors import UserError
from detr_jax.structures import Categories


class CocoFile(NamedTuple):
    """One annotation file as columns: M images and A annotations in the order of the file."""

    path: Path
    categories: Categories
    image_ids: Int64[np.ndarray, " M"]
    file_names: list[str]
    sizes: Int64[np.ndarray, "M 2"]  # (height, width); (0, 0) where the file does not say
    annotation_ids: Int64[np.ndarray, " A"]  # -1 where the file does not say
    image_id_of: Int64[np.ndarray, " A"]
    category_id_of: Int64[np.ndarray, " A"]
    is_crowd: Bool[np.ndarray, " A"]
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
        """For each image in ascending id: its row, and the JSON array of its annotations byte for byte."""
        order = np.argsort(self.image_id_of, kind="stable")
        rows = np.argsort(self.image_ids, kind="stable")
        starts = np.searchsorted(self.image_id_of[order], self.image_ids[rows], side="left")
        ends = np.searchsorted(self.image_id_of[order], self.image_ids[rows], side="right")
        with open(self.path, "rb", buffering=0) as stream:
            for row, start, end in zip(rows, starts, ends, strict=True):
                yield int(row), "[" + ", ".join(_read_span(stream, self.spans[i]) for i in order[start:end]) + "]"


_ANNOTATION_COLUMNS = CocoFile._fields[CocoFile._fields.index("annotation_ids") :]


def _read_span(stream: BinaryIO, span: Int64[np.ndarray, " 2"]) -> str:
    stream.seek(int(span[0]))
    return stream.read(int(span[1] - span[0])).decode()


class _Columns:
    """Collects the columns of a file, entry by entry, as compact arrays."""

    def __init__(self):
        self.categories: list[dict] = []
        self.file_names: list[str] = []
        self.boxes = array("d")
        names = ("image_ids", "sizes", "annotation_ids", "image_id_of", "category_id_of", "is_crowd", "spans")
        self.integers = {name: array("q") for name in names}

    def add(self, entry: json_stream.Element) -> None:
        """Adds an entry of "images", "annotations" or "categories".

        Raises KeyError, TypeError, AttributeError or OverflowError when a field is missing or of the wrong type.
        """
        value, columns = entry.value, self.integers
        if entry.key == "images":
            columns["image_ids"].append(value["id"])
            columns["sizes"].extend((int(value.get("height") or 0), int(value.get("width") or 0)))
            self.file_names.append(os.fspath(value["file_name"]))
        elif entry.key == "annotations":
            if len(value["bbox"]) != 4:
                raise TypeError("bbox is not four numbers")
            self.boxes.extend(value["bbox"])
            columns["annotation_ids"].append(value.get("id", -1))
            columns["image_id_of"].append(value["image_id"])
            columns["category_id_of"].append(value["category_id"])
            columns["is_crowd"].append(value.get("iscrowd") or 0)
            columns["spans"].extend((entry.start, entry.end))
        else:
            self.categories.append(value)

    def finish(self, path: Path, categories: Categories) -> CocoFile:
        columns = {name: np.array(values, np.int64) for name, values in self.integers.items()}
        columns["sizes"], columns["spans"] = columns["sizes"].reshape(-1, 2), columns["spans"].reshape(-1, 2)
        columns["is_crowd"] = columns["is_crowd"].astype(bool)
        boxes = np.array(self.boxes).reshape(-1, 4)
        return CocoFile(path, categories, file_names=self.file_names, boxes_xywh_pixels=boxes, **columns)


def scan(path: str | os.PathLike) -> CocoFile:
    """Reads an annotation file of any size in a stream; memory grows by about 100 bytes an annotation.

    Optional fields (info, licenses, area, iscrowd, width, height, an annotation's id) may be missing.

    Raises UserError when there is no such file, when it is not JSON or JSON of another kind, when nothing is annotated,
    and when a field is missing or of the wrong type. Values that can be read but are wrong are for ``find_defects``.
    """
    path, columns = Path(path), _Columns()
    first: dict[str | None, Any] = {}  # of each key one entry, enough to tell what kind of file it is
    entry = None
    try:
        for entry in json_stream.elements(path):
            if entry.key not in first:
                first[entry.key] = entry.value
                coco.refuse_other_kinds(path, first)
            if entry.value != [] and entry.key in ("images", "annotations", "categories"):
                columns.add(entry)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the path of a COCO annotation file") from error
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error}): export or download the file again") from error
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else f"a field is of the wrong type ({error})"
        shown = json.dumps(entry.value)[:120]
        raise UserError(f"{path}: {what} in the {entry.key} entry {shown}: correct the file") from error
    coco.refuse_incomplete(path, first)
    try:
        categories = coco.categories(columns.categories)
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{path}: bad categories: {error}") from error
    return columns.finish(path, categories)


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


class Defect(NamedTuple):
    """Something wrong with the data. ``kind`` is the same phrase for all of a kind, ``where`` names the culprit."""

    kind: str
    where: str
    stops: bool = True  # training; if False, it is left out and training goes on


def find_defects(file: CocoFile) -> list[Defect]:
    """Everything in an annotation file that training would stop on, each with its image or annotation id."""
    finite = np.isfinite(file.boxes_xywh_pixels).all(axis=1)
    negative = (file.boxes_xywh_pixels[:, 2:] < 0).any(axis=1)
    has_id = file.annotation_ids >= 0

    def name(row: int) -> str:
        return describe_annotation(file, row)

    checks: list[tuple[str, Bool[np.ndarray, " n"], Callable[[int], str]]] = [
        ("image id used twice", _mark_repeats(file.image_ids), lambda i: f"image {file.image_ids[i]}"),
        (
            "annotation id used twice",
            _mark_repeats(file.annotation_ids) & has_id,
            lambda i: f"annotation {file.annotation_ids[i]}",
        ),
        ("annotation of an image that is not listed", ~np.isin(file.image_id_of, file.image_ids), name),
        (
            "annotation of a category that is not listed",
            ~np.isin(file.category_id_of, file.categories.ids),
            lambda i: f"{name(i)} has category {file.category_id_of[i]}",
        ),
        ("box that is not finite", ~finite, name),
        (
            "box of negative width or height (COCO boxes are x, y, width, height)",
            finite & negative,
            lambda i: f"{name(i)} {file.boxes_xywh_pixels[i].tolist()}",
        ),
    ]
    return [Defect(kind, where(i)) for kind, wrong, where in checks for i in np.flatnonzero(wrong).tolist()]


def describe_annotation(file: CocoFile, row: int) -> str:
    """Names one annotation by its id, or by its place in the file where it has none, and by its image."""
    own_id = file.annotation_ids[row]
    return f"annotation {own_id if own_id >= 0 else f'number {row + 1}'} of image {file.image_id_of[row]}"


def _mark_repeats(ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """True at every occurrence of an id but its first."""
    _, first = np.unique(ids, return_index=True)
    repeated = np.ones(len(ids), bool)
    repeated[first] = False
    return repeated
