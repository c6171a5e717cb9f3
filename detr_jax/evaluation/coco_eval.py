"""COCO average precision: pycocotools measures, this file hands it clean input and gives its numbers names.

Ground truth is a COCO ``instances`` dictionary, results are rows of the COCO results format. ``evaluate`` gives
the numbers that pycocotools gives, but does not stumble over the gaps that real annotation files have.
``check_ground_truth`` scores the ground truth as if a perfect detector had found it: whatever then misses AP 1.0
is a fault of the data that no training could make good.
"""

import contextlib
import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr_jax import files
from detr_jax.evaluation import plots
from detr_jax.program import UserError

MAX_DETECTIONS = 100  # of one class in one image; COCO's rule
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


class CocoMetrics(NamedTuple):
    """COCO's twelve numbers in COCO's order (-1: no object of that size exists), then what stands behind them."""

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


def evaluate(
    ground_truth: dict, results: list[dict], *, image_ids: list[int] | None = None, iou_type: str = "bbox"
) -> CocoMetrics:
    """Scores detections against ground truth.

    Args:
        ground_truth: a COCO instances dictionary; left as it is.
        results: rows with image_id, category_id, score and bbox (xywh in pixels); ``segmentation`` (RLE) instead of
            bbox for ``iou_type="segm"``. One row a detection: drop repeated images before. May be empty (AP 0).
        image_ids: score these images only; results of other images are ignored.
        iou_type: what overlap is measured of, "bbox" or "segm".

    Raises:
        UserError: a result is incomplete or not finite, or names an image or a class that is not in the ground truth.
    """
    ground_truth = _normalised(ground_truth, iou_type)
    _check_results(ground_truth, results, iou_type)
    if image_ids is None:
        image_ids = [image["id"] for image in ground_truth["images"]]
    evaluator = _run(ground_truth, results, image_ids, iou_type, MAX_DETECTIONS)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.summarize()
    return CocoMetrics(
        *(float(number) for number in evaluator.stats),
        mean_iou=_mean_iou(evaluator),
        classes=_class_rows(evaluator),
        precision=evaluator.eval["precision"][:, :, :, 0, -1],
        iou_type=iou_type,
    )


def _normalised(ground_truth: dict, iou_type: str) -> dict:
    """A copy with everything pycocotools reaches for.

    Annotations are numbered anew from 1: pycocotools takes a detection that matches annotation 0 for unmatched, and
    reads one of two annotations with the same id twice.
    """
    annotations = []
    for number, annotation in enumerate(ground_truth["annotations"], start=1):
        if iou_type == "segm" and not annotation.get("segmentation"):
            raise UserError(
                f"annotation {annotation.get('id', number)} has no segmentation; masks can only be scored against "
                "annotations that have them: score boxes, or use an annotation file with masks"
            )
        area = annotation.get("area")
        if area is None:
            area = annotation["bbox"][2] * annotation["bbox"][3]
        annotations.append({**annotation, "area": area, "iscrowd": annotation.get("iscrowd") or 0, "id": number})
    return {"info": {}, "licenses": [], **ground_truth, "annotations": annotations}


def _check_results(ground_truth: dict, results: list[dict], iou_type: str) -> None:
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


def _run(ground_truth: dict, results: list[dict], image_ids, iou_type: str, max_detections: int) -> COCOeval:
    """pycocotools' own steps, without its prints."""
    # The other shape is left out of each row: with a bbox beside it, loadRes would take a mask's area from the box.
    keys = ("image_id", "category_id", "score", SHAPE_KEY[iou_type])
    wanted = set(image_ids)
    rows = [{key: row[key] for key in keys} for row in results if row["image_id"] in wanted]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _indexed(ground_truth)
        found = truth.loadRes(rows) if rows else _indexed({**ground_truth, "annotations": []})
        evaluator = COCOeval(truth, found, iou_type)
        evaluator.params.imgIds = sorted(wanted)
        evaluator.params.maxDets = [1, 10, max_detections]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def _indexed(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _mean_over_existing(values: np.ndarray) -> float:
    """COCO's mean: -1 marks what does not exist and does not count; -1 if nothing exists."""
    existing = values[values > -1]
    return float(existing.mean()) if existing.size else -1.0


def _class_rows(evaluator: COCOeval) -> list[ClassMetrics]:
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    recall = evaluator.eval["recall"][:, :, 0, -1]
    wanted = set(evaluator.params.imgIds)
    real = [a for a in evaluator.cocoGt.dataset["annotations"] if not a["iscrowd"] and a["image_id"] in wanted]
    objects = Counter(annotation["category_id"] for annotation in real)
    images = Counter(category_id for category_id, _ in {(a["category_id"], a["image_id"]) for a in real})
    return [
        ClassMetrics(
            id=int(category_id),
            name=str(evaluator.cocoGt.cats[category_id]["name"]),
            AP=_mean_over_existing(precision[:, :, k]),
            AP50=_mean_over_existing(precision[0, :, k]),
            AP75=_mean_over_existing(precision[5, :, k]),
            AR100=_mean_over_existing(recall[:, k]),
            images=images[category_id],
            objects=objects[category_id],
        )
        for k, category_id in enumerate(evaluator.params.catIds)
    ]


def _images_of_every_size(evaluator: COCOeval) -> Iterator[tuple[tuple, dict]]:
    """((image id, category id), what matched what) wherever there is something, objects of every size together."""
    for image in evaluator.evalImgs:
        if image is not None and image["aRng"] == evaluator.params.areaRng[0]:
            yield (image["image_id"], image["category_id"]), image


def _mean_iou(evaluator: COCOeval) -> float:
    overlaps = []
    for key, image in _images_of_every_size(evaluator):
        # pycocotools keeps no public record of which column of an overlap table is which object
        column = {annotation["id"]: g for g, annotation in enumerate(evaluator._gts[key])}
        matched, ignored = image["dtMatches"][0], image["dtIgnore"][0]  # at IoU 0.5
        overlaps += [
            evaluator.ious[key][d, column[matched[d]]] for d in range(len(matched)) if matched[d] and not ignored[d]
        ]
    return float(np.mean(overlaps)) if overlaps else -1.0


def format_summary(metrics: CocoMetrics) -> str:
    """The twelve lines that pycocotools prints."""
    ious = ["0.50:0.95", "0.50", "0.75", *["0.50:0.95"] * 9]
    areas = ["all", "all", "all", "small", "medium", "large"] * 2
    limits = [100] * 6 + [1, 10] + [100] * 4
    titles = [" Average Precision  (AP)"] * 6 + [" Average Recall     (AR)"] * 6
    return "\n".join(
        f"{title} @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>3} ] = {number:0.3f}"
        for title, iou, area, limit, number in zip(titles, ious, areas, limits, metrics.numbers, strict=True)
    )


def write(metrics: CocoMetrics, results: list[dict], folder: str | os.PathLike) -> None:
    """Writes metrics.json, per_class.csv, predictions.json and pr_curve.png into ``folder``, each file whole."""
    folder = Path(folder)
    summary = {
        **dict(zip(NAMES, metrics.numbers, strict=True)),
        "mean_iou": metrics.mean_iou,
        f"coco_eval_{metrics.iou_type}": metrics.numbers,
        "classes": [row._asdict() for row in metrics.classes],
    }
    with files.replacing(folder / "metrics.json") as path:
        path.write_text(json.dumps(summary, indent=1))
    with files.replacing(folder / "per_class.csv") as path, path.open("w", newline="") as file:
        csv.writer(file).writerows([ClassMetrics._fields, *metrics.classes])
    with files.replacing(folder / "predictions.json") as path:
        path.write_text(json.dumps(results))
    plots.pr_curve(metrics, folder / "pr_curve.png")


def ground_truth_as_results(ground_truth: dict) -> list[dict]:
    """What a perfect detector would find: each object as training sees it, with score 1.

    Crowds are left out, boxes are cut at the edge of the image, boxes without area are left out.
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

    Returns:
        Warnings, one sentence each, about what limits AP without being an error: boxes without area, which training
        drops, boxes that reach a little beyond their image, and more objects of a class in an image than COCO looks at.

    Raises:
        UserError: even at IoU 0.5 a perfect detector would miss objects; the sentence names the annotations.
    """
    for key, kind in (("image_id", "images"), ("category_id", "categories")):
        known = {item["id"] for item in ground_truth[kind]}
        if strangers := [a.get("id") for a in ground_truth["annotations"] if a[key] not in known]:
            raise UserError(f"annotations {_some(strangers)} belong to {kind} that the file does not list: remove them")
    objects = [annotation for annotation in ground_truth["annotations"] if not annotation.get("iscrowd")]
    if not objects:
        raise UserError("the ground truth has no objects, so there is nothing to score: check the annotation file")
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
    # without COCO's limit on detections: it lowers AP, but it is no fault of the data
    images = [image["id"] for image in ground_truth["images"]]
    evaluator = _run(_normalised(ground_truth, "bbox"), results, images, "bbox", max(MAX_DETECTIONS, most))
    precision = evaluator.eval["precision"][..., 0, -1]
    AP, AP50 = _mean_over_existing(precision), _mean_over_existing(precision[0])
    if AP50 < 1 - 1e-9:
        found = {g for _, image in _images_of_every_size(evaluator) for g in image["dtMatches"][0]}
        missed = [
            a.get("id")
            for n, a in enumerate(ground_truth["annotations"], start=1)
            if n not in found and not a.get("iscrowd")
        ]
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
