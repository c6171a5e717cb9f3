"""COCO average precision: COCO annotations and results in, named numbers out.

Ground truth is a COCO ``instances`` dictionary, results are rows of the COCO results format. ``evaluate`` gives the
numbers that pycocotools gives, and accepts the missing fields that real annotation files have. ``check_ground_truth``
scores the ground truth as the results of a perfect detector: what then misses AP 1.0 is a fault of the data.
"""

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from pycocotools import coco as coco_api
from pycocotools import mask as mask_api

from detr_jax import files
from detr_jax.errors import UserError
from detr_jax.evaluation import average_precision, plots, protocol
from detr_jax.evaluation.average_precision import Instances, MatchTable, Scores, mean_over_existing
from detr_jax.evaluation.protocol import COCO, OtherFigures, Protocol

NO_OBJECTS = "the ground truth has no objects, so there is nothing to score: AP is -1"
MAX_DETECTIONS = COCO.limits[-1]  # of one class in one image
SHAPE_KEY = {"bbox": "bbox", "segm": "segmentation"}  # where a result keeps what is compared


class ClassMetrics(NamedTuple):
    """One class; -1 where the ground truth has no object to find."""

    id: int  # the dataset's own
    name: str
    AP: float
    AP50: float
    AP75: float
    AR100: float
    images: int  # with at least one object of the class; crowds do not count
    objects: int
    detections: int = 0


class CocoMetrics(NamedTuple):
    """COCO's twelve numbers in COCO's order (-1: no object of that size exists), then what they are made of."""

    AP: float  # mean over IoU 0.50:0.05:0.95, 101 recall levels and the classes that have objects
    AP50: float
    AP75: float
    AP_small: float  # area below 32 x 32 pixels
    AP_medium: float
    AP_large: float  # area from 96 x 96 pixels
    AR1: float  # mean over IoU of the recall with the best 1, 10, 100 detections of a class in an image
    AR10: float
    AR100: float
    AR_small: float
    AR_medium: float
    AR_large: float
    mean_iou: float  # of the detections that match an object at IoU 0.5; -1 if none does
    classes: list[ClassMetrics]  # ascending by id
    precision: Float[np.ndarray, "10 101 K"]  # at each IoU, recall level 0:0.01:1 and class; -1 without objects
    iou_type: str

    @property
    def numbers(self) -> list[float]:
        """The twelve numbers as a list: ``coco_eval_bbox`` of the original's log."""
        return list(self[: len(NAMES)])


NAMES = CocoMetrics._fields[:12]


class Truth(NamedTuple):
    """The objects of the images that are scored."""

    images: dict  # id -> rank
    classes: dict  # id -> rank
    names: list[str]  # of the classes, by rank
    objects: Instances
    crowds: UInt8[np.ndarray, " N"]


def evaluate(
    ground_truth: dict, results: list[dict], *, image_ids: list[int] | None = None, iou_type: str = "bbox"
) -> CocoMetrics:
    """Scores detections against ground truth.

    Args:
      ground_truth: a COCO instances dictionary; not changed.
      results: rows with image_id, category_id, score and bbox (xywh in pixels); ``segmentation`` (RLE) instead of bbox
        for ``iou_type="segm"``. One row per detection: repeated images must be dropped before. May be empty (AP 0).
      image_ids: score these images only; results of other images are ignored.
      iou_type: whose overlap is measured, "bbox" or "segm".

    Raises UserError when a result is incomplete or not finite, or names an image or a class that the ground truth does
    not have.
    """
    truth = read_truth(ground_truth, image_ids, iou_type)
    check_results(ground_truth, results, iou_type)
    return summarise(truth, match_results(truth, results, iou_type=iou_type), iou_type)


def summarise(truth: Truth, matches: MatchTable, iou_type: str = "bbox") -> CocoMetrics:
    """The numbers of detections that have been matched with these objects by COCO's rules."""
    scores = average_precision.score(matches, len(truth.classes))
    return CocoMetrics(
        *(mean_over_existing(scores.values(figure)) for figure in protocol.list_figures(COCO)),
        mean_iou=float(matches.overlaps.mean()) if matches.overlaps.size else -1.0,
        classes=_class_rows(truth, scores, matches),
        precision=scores.precision[..., 0],
        iou_type=iou_type,
    )


def read_truth(ground_truth: dict, image_ids: list[int] | None = None, iou_type: str = "bbox") -> Truth:
    """The objects of these images, by default of all. Raises UserError where masks are missing."""
    for number, annotation in enumerate(ground_truth["annotations"] if iou_type == "segm" else [], start=1):
        if not annotation.get("segmentation"):
            raise UserError(
                f"annotation {annotation.get('id', number)} has no segmentation; masks can only be scored against "
                "annotations that have them: score boxes, or use an annotation file with masks"
            )
    images = _ranks([image["id"] for image in ground_truth["images"]] if image_ids is None else image_ids)
    classes = _ranks(category["id"] for category in ground_truth["categories"])
    rows = [a for a in ground_truth["annotations"] if a["image_id"] in images and a["category_id"] in classes]
    if iou_type == "bbox":
        shapes = _boxes(rows)
    else:
        coco = coco_api.COCO()
        coco.imgs = {image["id"]: image for image in ground_truth["images"]}
        shapes = [coco.annToRLE(annotation) for annotation in rows]
    areas = [a["bbox"][2] * a["bbox"][3] if a.get("area") is None else a["area"] for a in rows]
    crowds = np.array([bool(annotation.get("iscrowd")) for annotation in rows], np.uint8)
    names = {category["id"]: str(category.get("name", category["id"])) for category in ground_truth["categories"]}
    objects = _instances(rows, images, classes, areas, shapes)
    return Truth(images, classes, [names[category_id] for category_id in classes], objects, crowds)


def _ranks(ids) -> dict:
    return {value: rank for rank, value in enumerate(sorted(set(ids)))}


def _boxes(rows: list[dict]) -> Float[np.ndarray, "N 4"]:
    return np.array([row["bbox"] for row in rows], float).reshape(len(rows), 4)


def _instances(rows: list[dict], images: dict, classes: dict, areas, shapes) -> Instances:
    return Instances(
        images=np.array([images[row["image_id"]] for row in rows], int),
        labels=np.array([classes[row["category_id"]] for row in rows], int),
        areas=np.array(areas, float),
        shapes=shapes,
    )


def check_results(ground_truth: dict, results: list[dict], iou_type: str) -> None:
    """Raises UserError when a result is incomplete or not finite, or belongs to other annotations."""
    keys = ["image_id", "category_id", "score", SHAPE_KEY[iou_type]]
    for number, row in enumerate(results):
        if missing := [key for key in keys if key not in row]:
            raise UserError(f"result {number} has no {', '.join(missing)}; each needs {', '.join(keys)}")
        if not all(map(math.isfinite, (row["score"], *(row["bbox"] if iou_type == "bbox" else ())))):
            raise UserError(f"result {number} (image {row['image_id']}) has a score or box that is not finite")
    for key, kind in (("image_id", "images"), ("category_id", "categories")):
        known = {item["id"] for item in ground_truth[kind]}
        if unknown := {row[key] for row in results} - known:
            raise UserError(
                f"results name {kind} that the ground truth does not have: {_some(unknown)}; it has {_some(known)}: "
                "score them against the annotations they were made for"
            )


def _some(ids) -> str:
    """The first few ids, as text."""
    shown = sorted(ids, key=lambda value: (str(type(value)), value))[:5]
    return ", ".join(repr(value) for value in shown) + (f", ... ({len(ids)})" if len(ids) > 5 else "")


def read_detections(truth: Truth, results: list[dict], iou_type: str) -> tuple[Instances, Float[np.ndarray, " M"]]:
    """The results of the images that are scored, and their scores."""
    rows = [row for row in results if row["image_id"] in truth.images]
    if iou_type == "bbox":
        shapes = _boxes(rows)
        areas = shapes[:, 2] * shapes[:, 3]
    else:
        shapes = [row["segmentation"] for row in rows]
        areas = [mask_api.area(shape) for shape in shapes]  # pycocotools fails on a list of more than 255
    confidences = np.array([row["score"] for row in rows], float)
    return _instances(rows, truth.images, truth.classes, areas, shapes), confidences


def match_results(truth: Truth, results: list[dict], rules: Protocol = COCO, iou_type: str = "bbox") -> MatchTable:
    """Matches checked rows of the COCO results format with these objects."""
    found = read_detections(truth, results, iou_type)
    return average_precision.match_all(truth.objects, truth.crowds, *found, rules)


def _class_rows(truth: Truth, scores: Scores, matches: MatchTable) -> list[ClassMetrics]:
    precision, recall = scores.precision[..., 0], scores.recall[:, :, 0, -1]
    real = truth.crowds == 0
    objects, detections = (
        np.bincount(labels, minlength=len(truth.names)) for labels in (truth.objects.labels[real], matches.labels)
    )
    pairs = np.unique(truth.objects.groups(len(truth.images))[real])  # of class and image
    images = np.bincount(pairs // len(truth.images), minlength=len(truth.names))
    return [
        ClassMetrics(
            id=int(category_id),
            name=truth.names[k],
            AP=mean_over_existing(precision[:, :, k]),
            AP50=mean_over_existing(precision[0, :, k]),
            AP75=mean_over_existing(precision[5, :, k]),
            AR100=mean_over_existing(recall[:, k]),
            images=int(images[k]),
            objects=int(objects[k]),
            detections=int(detections[k]),
        )
        for category_id, k in truth.classes.items()
    ]


def format_summary(metrics: CocoMetrics) -> str:
    """The twelve lines that pycocotools prints."""
    return protocol.format_figures(COCO, metrics.numbers)


def write_evaluation(
    metrics: CocoMetrics, results: list[dict], folder: str | os.PathLike, other: OtherFigures | None = None
) -> None:
    """Writes metrics.json, per_class.csv, predictions.json and pr_curve.png into ``folder``, each file whole.

    ``other``: figures by other rules, written beside COCO's.
    """
    folder = Path(folder)
    summary = {
        **dict(zip(NAMES, metrics.numbers, strict=True)),
        "mean_iou": metrics.mean_iou,
        f"coco_eval_{metrics.iou_type}": metrics.numbers,
        **(other.as_record() if other else {}),
        "classes": [row._asdict() for row in metrics.classes],
    }
    with files.replacing(folder / "metrics.json") as path:
        path.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    more = [other.names, *other.of_classes] if other else [[]] * (1 + len(metrics.classes))
    table = zip([ClassMetrics._fields, *metrics.classes], more, strict=True)
    files.write_csv(folder / "per_class.csv", [[*row, *further] for row, further in table])
    with files.replacing(folder / "predictions.json") as path:
        path.write_text(json.dumps(results), encoding="utf-8")
    plots.pr_curve(metrics, folder / "pr_curve.png")


def ground_truth_as_results(ground_truth: dict) -> list[dict]:
    """The results of a perfect detector: each object as training sees it, with score 1.

    Crowds and boxes without area are left out; boxes are cut at the edge of the image.
    """
    sizes = {image["id"]: (image.get("width", np.inf), image.get("height", np.inf)) for image in ground_truth["images"]}
    results = []
    for annotation in ground_truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        limit_x, limit_y = sizes[annotation["image_id"]]
        x0, x1 = (min(max(value, 0), limit_x) for value in (x, x + width))
        y0, y1 = (min(max(value, 0), limit_y) for value in (y, y + height))
        if not annotation.get("iscrowd") and x1 > x0 and y1 > y0:
            row = {"image_id": annotation["image_id"], "category_id": annotation["category_id"]}
            results.append({**row, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": 1.0})
    return results


def _has_area(annotation: dict) -> bool:
    return bool(min(annotation["bbox"][2:]) > 0)


def check_ground_truth(ground_truth: dict) -> list[str]:
    """Makes sure that a perfect detector would get AP 1.0 on this data; call it before training.

    Returns warnings, one sentence each, about what limits AP without being an error: no objects at all; boxes without
    area, which training drops; boxes that reach a little beyond their image; more objects of a class in an image than
    COCO counts.

    Raises UserError, which names the annotations, when a perfect detector would miss objects even at IoU 0.5.
    """
    for key, kind in (("image_id", "images"), ("category_id", "categories")):
        known = {item["id"] for item in ground_truth[kind]}
        if strangers := [a.get("id") for a in ground_truth["annotations"] if a[key] not in known]:
            raise UserError(f"annotations {_some(strangers)} belong to {kind} that the file does not list: remove them")
    objects = [annotation for annotation in ground_truth["annotations"] if not annotation.get("iscrowd")]
    if not objects:
        return [NO_OBJECTS]
    results = ground_truth_as_results(ground_truth)
    warnings = []
    if empty := [a.get("id") for a in objects if not _has_area(a)]:
        warnings.append(
            f"annotations {_some(empty)} have boxes without area, which nothing can match, "
            f"so AP cannot exceed {evaluate(ground_truth, results).AP:.4f}"
        )
        objects = [a for a in objects if _has_area(a)]
        if not objects:
            raise UserError("no box of the ground truth has an area, so there is nothing to score: correct the file")
        kept = [a for a in ground_truth["annotations"] if a.get("iscrowd") or _has_area(a)]
        ground_truth = {**ground_truth, "annotations": kept}
    (image_id, class_id), most = Counter((a["image_id"], a["category_id"]) for a in objects).most_common(1)[0]
    # Without COCO's limit on detections, which lowers AP but is no fault of the data.
    rules = COCO._replace(areas=COCO.areas[:1], limits=(max(MAX_DETECTIONS, most),))
    truth = read_truth(ground_truth)
    matches = match_results(truth, results, rules)
    scores = average_precision.score(matches, len(truth.classes))
    AP, AP50 = mean_over_existing(scores.precision), mean_over_existing(scores.precision[0])
    if AP50 < 1 - 1e-9:
        pairs = zip(ground_truth["annotations"], matches.found.tolist(), strict=True)
        missed = [a.get("id") for a, found in pairs if not found and not a.get("iscrowd")]
        raise UserError(
            f"ground truth scored as predictions gives AP {AP:.4f} instead of 1 because boxes lie mostly outside of "
            f"their image (annotations {_some(missed)}): bbox must be [x, y, width, height] in "
            "pixels of the image whose width and height the file gives"
        )
    if AP < 1 - 1e-9:
        warnings.append(f"boxes reach beyond their image; training cuts them at its edge, so AP cannot exceed {AP:.4f}")
    if most > MAX_DETECTIONS:
        limited = evaluate(ground_truth, results).AP
        warnings.append(
            f"image {image_id} has {most} objects of category {class_id} and COCO scores the best {MAX_DETECTIONS} "
            f"detections of a class in an image, so AP cannot exceed {limited:.4f}"
        )
    return warnings
