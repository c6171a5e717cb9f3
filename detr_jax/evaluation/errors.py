"""What a detector does wrong on a dataset, in one record: every analysis of this room on the same pairing.

Where errors are listed one by one, only detections count whose score reaches the threshold of their class: the one of
the highest F1.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from detr_jax import files
from detr_jax.evaluation import calibration, coco_eval, operating_points
from detr_jax.evaluation.average_precision import match_all
from detr_jax.evaluation.calibration import Recalibrated, Reliability
from detr_jax.evaluation.coco_eval import CocoMetrics
from detr_jax.evaluation.confusion import confusion_matrix, most_confused
from detr_jax.evaluation.misses import Group, group_misses
from detr_jax.evaluation.operating_points import (
    Curve,
    Lrp,
    Point,
    best_f1,
    draw_curves,
    optimal_lrp,
    thin,
    with_precision,
)
from detr_jax.evaluation.other_rules import evaluate_by
from detr_jax.evaluation.pairing import Pairing, pair
from detr_jax.evaluation.protocol import COCO, OtherFigures, Protocol
from detr_jax.evaluation.suspects import ImageErrors, Suspect, find_suspects, rank_images
from detr_jax.evaluation.tide import TYPES, Tide, find_errors

FORMAT = 1  # of errors.json
CURVE_POINTS = 150  # of a class in curves.csv


class Analysis(NamedTuple):
    """The analysis. Rows of classes and images are in the order of their ids."""

    metrics: CocoMetrics
    other: OtherFigures | None  # by other rules, where they were asked for
    image_ids: list[int]
    file_names: list[str]
    sizes: Float[np.ndarray, "I 2"]  # (height, width) of each image; infinite where it is not stated
    pairing: Pairing
    tide: Tide
    confusion: Int[np.ndarray, "K1 K1"]  # at IoU 0.5, of all detections
    confusion_at_thresholds: Int[np.ndarray, "K1 K1"]
    curves: list[Curve]
    thresholds: Float[np.ndarray, " K"]
    points: list[Point | None]  # of the highest F1
    precise_points: list[Point | None]  # of the wanted precision
    wanted_precision: float
    overall: Point | None  # one threshold for all classes
    lrp: list[Lrp | None]
    reliability: Reliability
    localisation_error: float  # LaECE
    recalibrated: Recalibrated
    groups: list[Group]
    shown: Bool[np.ndarray, " M"]  # detections that reach the threshold of their class
    found: Bool[np.ndarray, " N"]  # objects that these find
    images: list[ImageErrors]
    suspects: list[Suspect]

    @property
    def names(self) -> list[str]:
        """Of the classes."""
        return [row.name for row in self.metrics.classes]

    @property
    def mean_lrp(self) -> float:
        """Of the classes with objects; -1 without any."""
        return operating_points.mean_lrp(self.lrp)

    @property
    def counts_at_thresholds(self) -> dict[str, int]:
        """Of each of ``tide.MEANINGS``: detections that reach their threshold, and objects that these do not find. Of
        the type Miss are objects that nothing comes near, with whatever score."""
        counts = np.bincount(self.tide.kinds[self.shown & (self.tide.kinds >= 0)], minlength=len(TYPES)).tolist()
        all_wrong, missed, not_found = sum(counts), int(self.tide.missed.sum()), int((~self.found).sum())
        return dict(zip(TYPES, counts, strict=True)) | {"Miss": missed, "FP": all_wrong, "FN": not_found}


def analyse(ground_truth: dict, results: list[dict], precision: float = 0.9, rules: Protocol = COCO) -> Analysis:
    """Compares results with ground truth.

    Args:
      ground_truth: a COCO instances dictionary.
      results: checked rows of the COCO results format.
      precision: for which a threshold of each class is computed, too.
      rules: by which figures are given beside COCO's; the errors themselves are always those at IoU 0.5.
    """
    truth = coco_eval.read_truth(ground_truth)
    detections, scores = coco_eval.read_detections(truth, results, "bbox")
    metrics = coco_eval.summarise(truth, match_all(truth.objects, truth.crowds, detections, scores))
    classes, images = len(truth.classes), len(truth.images)
    pairing = pair(truth.objects, truth.crowds > 0, detections, scores, images)
    tide = find_errors(pairing, classes)
    curves = draw_curves(pairing, classes)
    points = [best_f1(curve) for curve in curves]
    thresholds, shown, found = operating_points.apply_points(pairing, points)
    table = {image["id"]: image for image in ground_truth["images"]}
    ordered = [table[image_id] for image_id in truth.images]
    sizes = np.array([[image.get("height") or np.inf, image.get("width") or np.inf] for image in ordered], float)
    return Analysis(
        metrics=metrics,
        other=evaluate_by(rules, ground_truth, results) if rules != COCO else None,
        image_ids=list(truth.images),
        file_names=[str(image.get("file_name", "")) for image in ordered],
        sizes=sizes.reshape(-1, 2),
        pairing=pairing,
        tide=tide,
        confusion=confusion_matrix(pairing, classes),
        confusion_at_thresholds=confusion_matrix(pairing, classes, shown),
        curves=curves,
        thresholds=thresholds,
        points=points,
        precise_points=[with_precision(curve, precision) for curve in curves],
        wanted_precision=precision,
        overall=best_f1(draw_curves(_as_one_class(pairing), 1)[0]),
        lrp=[optimal_lrp(curve) for curve in curves],
        reliability=calibration.detection_reliability(pairing),
        localisation_error=calibration.localisation_error(pairing, classes),
        recalibrated=calibration.recalibrate(pairing, classes),
        groups=group_misses(pairing, found, sizes.reshape(-1, 2), classes),
        shown=shown,
        found=found,
        images=rank_images(pairing, shown, found, images),
        suspects=find_suspects(pairing, tide),
    )


def _as_one_class(pairing: Pairing) -> Pairing:
    """Only for curves: what is correct stays as it is."""
    objects, detections = (
        kind._replace(labels=np.zeros_like(kind.labels)) for kind in (pairing.objects, pairing.detections)
    )
    return pairing._replace(objects=objects, detections=detections)


def as_json(errors: Analysis, advice: list[str]) -> dict[str, Any]:
    """Everything that has a number, as plain values."""
    names, pairing = errors.names, errors.pairing
    classes = zip(errors.metrics.classes, errors.points, errors.precise_points, errors.lrp, strict=True)
    return {
        "format": FORMAT,
        "images": len(errors.image_ids),
        "objects": len(pairing.objects.labels),
        "detections": len(pairing.scores),
        **dict(zip(coco_eval.NAMES, errors.metrics.numbers, strict=True)),
        "mean_iou": errors.metrics.mean_iou,
        **(errors.other.as_record() if errors.other else {}),
        "advice": advice,
        "tide": {name: 100 * cost for name, cost in errors.tide.costs.items()},
        "tide_counts": errors.tide.counts,
        "tide_counts_at_thresholds": errors.counts_at_thresholds,
        "confusion_matrix": {"classes": [*names, "background"], "counts": errors.confusion.tolist(), "iou": 0.5},
        "confusion_matrix_at_thresholds": {
            "classes": [*names, "background"],
            "counts": errors.confusion_at_thresholds.tolist(),
            "iou": 0.5,
        },
        "most_confused": [
            {"object": names[row], "detection": names[column], "count": count}
            for row, column, count in most_confused(errors.confusion_at_thresholds)
        ],
        "best_f1": errors.overall._asdict() if errors.overall else None,
        "wanted_precision": errors.wanted_precision,
        "classes": [
            {
                **row._asdict(),
                "best_f1": point._asdict() if point else None,
                "wanted_precision": precise._asdict() if precise else None,
                "oLRP": lrp._asdict() if lrp else None,
            }
            for row, point, precise, lrp in classes
        ],
        "oLRP": errors.mean_lrp,
        "calibration": {
            "correct": "by descending score, each detection takes the nearest free object of its class at IoU 0.5",
            "D-ECE": errors.reliability.error,
            "LaECE": errors.localisation_error,
            "bins": [
                {"count": int(count), "score": score, "precision": precision}
                for count, score, precision in zip(*(column.tolist() for column in errors.reliability), strict=True)
            ],
            "isotonic": {"D-ECE before": errors.recalibrated.before, "D-ECE after": errors.recalibrated.after},
        },
        "misses": [{**group._asdict(), "missed": group.missed} for group in errors.groups],
        "duplicates": errors.counts_at_thresholds["Dupe"],
        "worst_images": [_image_json(errors, row) for row in errors.images[:100]],
        "suspects": [_suspect_json(errors, suspect) for suspect in errors.suspects],
    }


def _image_json(errors: Analysis, row: ImageErrors) -> dict[str, Any]:
    return {
        "image_id": errors.image_ids[row.image],
        "file_name": errors.file_names[row.image],
        "false_positives": row.false_positives,
        "missed": row.missed,
    }


def _suspect_json(errors: Analysis, suspect: Suspect) -> dict[str, Any]:
    pairing, names = errors.pairing, errors.names
    detection, target = suspect.detection, suspect.object
    return {
        "kind": suspect.kind,
        "image_id": errors.image_ids[suspect.image],
        "file_name": errors.file_names[suspect.image],
        "score": suspect.score,
        "detected": names[pairing.detections.labels[detection]],
        "detected_bbox": pairing.detections.shapes[detection].tolist(),
        "annotated": names[pairing.objects.labels[target]] if target >= 0 else None,
        "annotated_bbox": pairing.objects.shapes[target].tolist() if target >= 0 else None,
    }


def thresholds_json(errors: Analysis) -> dict[str, Any]:
    """A threshold for each class, as ``predict --thresholds`` takes it; null where nothing of the class is correct."""
    rows = zip(errors.metrics.classes, errors.points, errors.precise_points, strict=True)
    return {
        "best_f1": errors.overall.threshold if errors.overall else None,
        "wanted_precision": errors.wanted_precision,
        "classes": [
            {
                "id": row.id,
                "name": row.name,
                "best_f1": point.threshold if point else None,
                "precise": precise.threshold if precise else None,
            }
            for row, point, precise in rows
        ],
    }


def write_errors(errors: Analysis, advice: list[str], folder: Path) -> None:
    """Writes errors.json, thresholds.json, calibration.json, and the tables as CSV, each file whole."""
    found = as_json(errors, advice)
    calibrated = zip(errors.metrics.classes, errors.recalibrated.knots, strict=True)
    knots = [{"id": row.id, "name": row.name, "score_to_probability": points} for row, points in calibrated]
    for name, value in (("errors", found), ("thresholds", thresholds_json(errors)), ("calibration", knots)):
        with files.replacing(folder / f"{name}.json") as path:
            path.write_text(json.dumps(value, indent=1), encoding="utf-8")
    _write_table(folder / "per_class.csv", _class_rows(errors))
    _write_table(folder / "misses.csv", found["misses"])
    _write_table(folder / "worst_images.csv", [_image_json(errors, row) for row in errors.images])
    _write_table(folder / "suspects.csv", found["suspects"])
    files.write_csv(folder / "curves.csv", [("class", *Point._fields), *_curve_rows(errors)])
    matrix = [["object \\ detection", *found["confusion_matrix"]["classes"]]]
    rows = zip(found["confusion_matrix"]["classes"], errors.confusion.tolist(), strict=True)
    files.write_csv(folder / "confusion_matrix.csv", [*matrix, *([name, *counts] for name, counts in rows)])


def _class_rows(errors: Analysis) -> list[dict[str, Any]]:
    rows = zip(errors.metrics.classes, errors.points, errors.lrp, strict=True)
    return [
        {
            **row._asdict(),
            **{name: getattr(point, name, "") for name in Point._fields},
            "oLRP": lrp.value if lrp else "",
        }
        for row, point, lrp in rows
    ]


def _curve_rows(errors: Analysis) -> Iterator[tuple]:
    for name, curve in zip(errors.names, errors.curves, strict=True):
        for point in thin(curve, CURVE_POINTS):
            yield name, *point


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    files.write_csv(path, [list(rows[0]), *(list(row.values()) for row in rows)] if rows else [])
