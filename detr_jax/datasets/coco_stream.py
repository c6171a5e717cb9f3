"""A COCO annotation file of any size as columns, and what may be wrong in it.

``scan`` reads the file in a stream and remembers where each annotation's own text lies, so that it can be copied letter
for letter; ``defects`` names everything that training would stop on; ``tally`` says which annotations train.
"""

import json
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Int64

from detr_jax.datasets import coco as coco_json, json_stream
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
    spans: Int64[np.ndarray, "A 2"]  # the annotation's own text is the bytes [start, end) of the file

    def of_images(self, keep: Bool[np.ndarray, " M"]) -> "CocoFile":
        """Without the images where ``keep`` is False, and without their annotations."""
        kept = ~np.isin(self.image_id_of, self.image_ids[~keep])
        return self._replace(
            image_ids=self.image_ids[keep],
            file_names=[name for name, wanted in zip(self.file_names, keep, strict=True) if wanted],
            sizes=self.sizes[keep],
            **{name: getattr(self, name)[kept] for name in _ANNOTATION_COLUMNS},
        )

    def texts(self) -> Iterator[tuple[int, str]]:
        """For each image in ascending id: its row and the JSON array of its annotations, letter for letter."""
        order = np.argsort(self.image_id_of, kind="stable")
        rows = np.argsort(self.image_ids, kind="stable")
        starts = np.searchsorted(self.image_id_of[order], self.image_ids[rows], side="left")
        ends = np.searchsorted(self.image_id_of[order], self.image_ids[rows], side="right")
        with open(self.path, "rb", buffering=0) as file:
            for row, start, end in zip(rows, starts, ends, strict=True):
                yield int(row), "[" + ", ".join(_read(file, self.spans[i]) for i in order[start:end]) + "]"


_ANNOTATION_COLUMNS = CocoFile._fields[CocoFile._fields.index("annotation_ids") :]


def _read(file, span: Int64[np.ndarray, " 2"]) -> str:
    file.seek(int(span[0]))
    return file.read(int(span[1] - span[0])).decode()


class Defect(NamedTuple):
    """Something wrong with the data. ``kind`` is the same phrase for all of a kind, ``where`` names the culprit."""

    kind: str
    where: str
    stops: bool = True  # False: training leaves it out and goes on


def scan(path: str | os.PathLike) -> CocoFile:
    """Reads an annotation file of any size in a stream; memory grows by about 100 bytes an annotation.

    Optional fields (info, licenses, area, iscrowd, width, height, an annotation's id) may be missing.

    Raises:
        UserError: no such file, not JSON, JSON of another kind, nothing annotated, or a field that is missing or of
            the wrong type. What can be read but is wrong is told by ``defects``.
    """
    path = Path(path)
    categories: list[dict] = []
    names: list[str] = []
    columns = {name: array("q") for name in ("image", "size", "annotation", "image_of", "category_of", "crowd", "span")}
    boxes = array("d")
    first: dict[str | None, Any] = {}  # of each key, enough to tell what kind of file it is
    key = value = None
    try:
        for key, value, start, end in json_stream.elements(path):
            if key not in first:
                first[key] = value
                coco_json.refuse_other_kinds(path, first)
            if value == [] or key not in ("images", "annotations", "categories"):
                continue
            if key == "images":
                columns["image"].append(value["id"])
                columns["size"].extend((int(value.get("height") or 0), int(value.get("width") or 0)))
                names.append(os.fspath(value["file_name"]))
            elif key == "annotations":
                if len(value["bbox"]) != 4:
                    raise TypeError("bbox is not four numbers")
                boxes.extend(value["bbox"])
                columns["annotation"].append(value.get("id", -1))
                columns["image_of"].append(value["image_id"])
                columns["category_of"].append(value["category_id"])
                columns["crowd"].append(value.get("iscrowd") or 0)
                columns["span"].extend((start, end))
            else:
                categories.append(value)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the path of a COCO annotation file") from error
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error}): export or download the file again") from error
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else f"a field is of the wrong type ({error})"
        raise UserError(f"{path}: {what} in the {key} entry {json.dumps(value)[:120]}: correct the file") from error
    coco_json.refuse_incomplete(path, first)
    try:
        table = coco_json.categories({"categories": categories})
    except (UserError, KeyError, TypeError) as error:
        raise UserError(f"{path}: bad categories: {error}") from error

    column = {name: np.array(values, np.int64) for name, values in columns.items()}
    return CocoFile(
        path=path,
        categories=table,
        image_ids=column["image"],
        file_names=names,
        sizes=column["size"].reshape(-1, 2),
        annotation_ids=column["annotation"],
        image_id_of=column["image_of"],
        category_id_of=column["category_of"],
        is_crowd=column["crowd"].astype(bool),
        boxes_xywh_pixels=np.array(boxes).reshape(-1, 4),
        spans=column["span"].reshape(-1, 2),
    )


class Tally(NamedTuple):
    """How the annotations of a file divide. The four columns hold one row an image or one an annotation."""

    targets_of_image: Int32[np.ndarray, " M"]
    annotations_of_image: Int32[np.ndarray, " M"]
    is_target: Bool[np.ndarray, " A"]
    is_degenerate: Bool[np.ndarray, " A"]  # not a crowd, and without area inside the image


def tally(coco: CocoFile, sizes: Int[np.ndarray, "M 2"]) -> Tally:
    """Which annotations train, given the true (height, width) of every image; ``defects`` must be none."""
    by_id = np.argsort(coco.image_ids)
    row = by_id[np.searchsorted(coco.image_ids, coco.image_id_of, sorter=by_id)]
    _, has_area = coco_json.training_boxes(coco.boxes_xywh_pixels, sizes[row])
    is_target = has_area & ~coco.is_crowd
    count = len(coco.image_ids)
    return Tally(
        np.bincount(row[is_target], minlength=count).astype(np.int32),
        np.bincount(row, minlength=count).astype(np.int32),
        is_target,
        ~has_area & ~coco.is_crowd,
    )


def defects(coco: CocoFile) -> list[Defect]:
    """Everything in an annotation file that training would stop on, each with its image or annotation id."""
    finite = np.isfinite(coco.boxes_xywh_pixels).all(axis=1)
    negative = (coco.boxes_xywh_pixels[:, 2:] < 0).any(axis=1)
    stated = coco.annotation_ids >= 0
    columns: list[tuple[str, Bool[np.ndarray, " n"], Callable[[int], str]]] = [
        ("image id used twice", _repeated(coco.image_ids), lambda i: f"image {coco.image_ids[i]}"),
        (
            "annotation id used twice",
            _repeated(coco.annotation_ids) & stated,
            lambda i: f"annotation {coco.annotation_ids[i]}",
        ),
        (
            "annotation of an image that is not listed",
            ~np.isin(coco.image_id_of, coco.image_ids),
            lambda i: describe(coco, i),
        ),
        (
            "annotation of a category that is not listed",
            ~np.isin(coco.category_id_of, coco.categories.ids),
            lambda i: f"{describe(coco, i)} has category {coco.category_id_of[i]}",
        ),
        ("box that is not finite", ~finite, lambda i: describe(coco, i)),
        (
            "box of negative width or height (COCO boxes are x, y, width, height)",
            finite & negative,
            lambda i: f"{describe(coco, i)} {coco.boxes_xywh_pixels[i].tolist()}",
        ),
    ]
    return [Defect(kind, where(i)) for kind, wrong, where in columns for i in np.flatnonzero(wrong).tolist()]


def describe(coco: CocoFile, row: int) -> str:
    """Names one annotation by its id, or by its place in the file where it has none, and by its image."""
    own_id = coco.annotation_ids[row]
    return f"annotation {own_id if own_id >= 0 else f'number {row + 1}'} of image {coco.image_id_of[row]}"


def _repeated(ids: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """True at every occurrence of an id but its first."""
    _, first = np.unique(ids, return_index=True)
    repeated = np.ones(len(ids), bool)
    repeated[first] = False
    return repeated
