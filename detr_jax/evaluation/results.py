"""Result files in COCO's format, of any detector: read, checked, and understood where it is clear what is meant."""

import gc
import heapq
import json
import math
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pycocotools import mask as mask_api

from detr_jax.errors import UserError
from detr_jax.evaluation.coco_eval import check_results
from detr_jax.evaluation.translation import translate_results
from detr_jax.structures import Categories

MOST_BYTES = 600_000_000  # ten times COCO's 5,000 images with 100 detections each; as Python objects 6 GB
SAMPLE = 2000  # the best detections, by which the format of boxes is told
CLEAR = 0.2  # share of them that must find an object in another format, and at most half of it in COCO's


def read_results(
    path: str | Path, ground_truth: dict, table: Categories | None = None, class_map: str | None = None
) -> tuple[list[dict], list[str]]:
    """The rows of a results file, with ``bbox`` in COCO's format, and sentences about what was understood.

    ``table`` and ``class_map`` translate the category ids of another dataset: see ``translation``.
    Raises UserError when it cannot be read, is no results file, or does not belong to the ground truth.
    """
    path = Path(path).expanduser()
    rows = _read(path)
    notes = [] if rows else [f"{path} holds no detections: every object counts as missed"]
    without_box = 0
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{path}: result {number} is no object with image_id, category_id, bbox and score")
        if "bbox" not in row and isinstance(row.get("segmentation"), dict):
            row["bbox"] = _box_of_mask(row["segmentation"], path, number)
            without_box += 1
        _check_row(row, path, number)
    if without_box:
        notes.append(f"{path} has masks and no boxes; the boxes around the masks are used")
    dataset = Categories.from_rows(ground_truth["categories"])
    rows, said = translate_results(rows, dataset, table, class_map)
    notes += said
    strangers = {row.get("category_id") for row in rows} - {None, *dataset.ids}
    if strangers and table is None:
        some = ", ".join(sorted(map(repr, strangers))[:5])
        raise UserError(
            f"{path}: results name categories that the ground truth does not have: {some}; if these are the ids of "
            "another dataset, name the detector's classes with --categories=FILE"
        )
    try:
        check_results(ground_truth, rows, "bbox")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    high = max((row["score"] for row in rows), default=0.0)
    low = min((row["score"] for row in rows), default=0.0)
    if high > 1 or low < 0:
        raise UserError(f"{path} has scores from {low:g} to {high:g}; they must be 0 to 1: write probabilities")
    kind = guess_format(rows, ground_truth)
    if kind != "xywh":
        for row in rows:
            row["bbox"] = _as_xywh(np.array(row["bbox"], float), kind).tolist()
        notes.append(
            f"the boxes of {path} fit the objects as {FORMATS[kind]}, not as COCO's x, y, width, height; read so"
        )
    return rows, notes


FORMATS = {"xyxy": "x0, y0, x1, y1", "cxcywh": "centre x, centre y, width, height"}


def _read(path: Path) -> list:
    if not path.is_file():
        raise UserError(f"--predictions: {path} does not exist; pass a file of COCO results, such as predictions.json")
    if path.stat().st_size > MOST_BYTES:
        size = path.stat().st_size / 1e9
        raise UserError(f"{path} has {size:.1f} GB; keep the best 100 detections of each image, which is what counts")
    try:
        gc.disable()  # millions of new objects, none of them garbage: looking for some takes a quarter of the time
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    finally:
        gc.enable()
    if isinstance(rows, dict):
        keys = ", ".join(map(str, list(rows)[:5]))
        raise UserError(
            f"{path} holds an object ({keys}), not a list of results; a results file is a list of rows with image_id, "
            "category_id, bbox and score"
        )
    if not isinstance(rows, list):
        raise UserError(f"{path} holds no list of results")
    return rows


def _box_of_mask(mask: dict, path: Path, number: int) -> list[float]:
    try:
        height, width = mask["size"]
        counts = mask["counts"]
        if isinstance(counts, list):
            mask = mask_api.frPyObjects(mask, height, width)
        return [float(value) for value in mask_api.toBbox(mask)]
    except Exception as error:  # pycocotools raises whatever its C code meets
        raise UserError(f"{path}: the segmentation of result {number} is no run-length encoded mask") from error


def _check_row(row: dict, path: Path, number: int) -> None:
    box, score = row.get("bbox"), row.get("score")
    if "bbox" in row and not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        raise UserError(f"{path}: the bbox of result {number} is {str(box)[:60]}, not four numbers")
    if "score" in row and not is_number(score):
        raise UserError(f"{path}: the score of result {number} is {str(score)[:60]}, not a number")
    for key in ("image_id", "category_id"):
        if isinstance(row.get(key), list | dict):
            raise UserError(f"{path}: the {key} of result {number} is {str(row[key])[:60]}, not an id")


def is_number(value: object) -> bool:
    """Whether a value of a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def guess_format(rows: list[dict], ground_truth: dict) -> str:
    """``xywh``, or another format in which the best detections clearly fit the objects better."""
    best = heapq.nlargest(SAMPLE, rows, key=lambda row: row["score"])
    by_image: dict = {}
    for annotation in ground_truth["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    pairs = [(row["bbox"], by_image[row["image_id"]]) for row in best if row["image_id"] in by_image]
    if not pairs:
        return "xywh"
    boxes = np.array([box for box, _ in pairs], float)
    fits = {}
    for kind in ("xywh", *FORMATS):
        read = _as_xywh(boxes, kind)
        near = [
            mask_api.iou(read[number : number + 1], np.array(objects, float), [False] * len(objects)).max() >= 0.5
            for number, (_, objects) in enumerate(pairs)
        ]
        fits[kind] = float(np.mean(near))
    other = max(FORMATS, key=fits.get)
    return other if fits[other] >= CLEAR and fits["xywh"] <= fits[other] / 2 else "xywh"


def _as_xywh(boxes: Float[np.ndarray, "*n 4"], kind: str) -> Float[np.ndarray, "*n 4"]:
    if kind == "xyxy":
        return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)
    if kind == "cxcywh":
        return np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., 2:]], axis=-1)
    return boxes
