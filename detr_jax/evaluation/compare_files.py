"""What a comparison writes: compare.json and tables as CSV."""

import json
import math
from pathlib import Path
from typing import Any

from detr_jax import files
from detr_jax.evaluation import coco_eval
from detr_jax.evaluation.bootstrap import NUMBERS
from detr_jax.evaluation.compare import Comparison, Difference, Interval, Measured
from detr_jax.evaluation.published import Published
from detr_jax.evaluation.verdicts import verdict

FORMAT = 1  # of compare.json
MOST_IMAGES = 50  # of each direction of a pair in compare.json; images.csv has all

Facts = dict[str, dict[str, Any]]


def comparison_json(comparison: Comparison, facts: Facts, rows: list[Published], said: list[str]) -> dict[str, Any]:
    """Everything that has a number, as plain values; null where there is none.

    Args:
      comparison: what was measured; AP is 0 to 1, costs of error types are points of AP50.
      facts: of each detector by name.
      rows: published figures, in percent as published.
      said: the sentences.
    """
    bench = comparison.bench
    return {
        "format": FORMAT,
        "images": len(bench.truth.images),
        "objects": int((bench.truth.crowds == 0).sum()),
        "bootstrap": {"draws": bench.draws, "seed": bench.seed, "confidence": 0.95},
        "sentences": said,
        "detectors": {one.name: _detector_json(one, facts.get(one.name, {})) for one in comparison.detectors},
        "differences": [
            row for difference in comparison.differences for row in _difference_rows(comparison, difference)
        ],
        "images_by_errors": [_images_json(comparison, difference) for difference in comparison.differences],
        "published": [row._asdict() for row in rows],
    }


def _detector_json(detector: Measured, facts: dict[str, Any]) -> dict[str, Any]:
    metrics = detector.metrics
    classes = zip(metrics.classes, detector.class_intervals, strict=True)
    return {
        **dict(zip(coco_eval.NAMES, metrics.numbers, strict=True)),
        "intervals": {key: [_known(one.low), _known(one.high)] for key, one in detector.intervals.items()},
        "mean_iou": metrics.mean_iou,
        "oLRP": detector.mean_lrp,
        "D_ECE": detector.detection_error,
        "LaECE": detector.localisation_error,
        "tide": {name: 100 * cost for name, cost in detector.tide.costs.items()},
        "tide_counts": detector.tide.counts,
        "detections": detector.detections,
        "images_with_results": len(detector.covered),
        "false_positives": int(detector.false_positives.sum()),
        "missed": int(detector.missed.sum()),
        "classes": [
            {**row._asdict(), "low": _known(interval.low), "high": _known(interval.high)} for row, interval in classes
        ],
        "info": facts,
    }


def _difference_rows(comparison: Comparison, difference: Difference) -> list[dict[str, Any]]:
    """A row for each of NUMBERS and each class: the first of the pair minus the second."""
    truth = comparison.bench.truth
    found = [(key, None, None, interval) for key, interval in difference.numbers.items()]
    classes = zip(truth.classes, truth.names, difference.classes, strict=True)
    found += [("AP", class_id, name, interval) for class_id, name, interval in classes]
    return [
        {
            "pair": [difference.name, difference.minus],
            "metric": key,
            "class_id": class_id,
            "class": name,
            **{part: _known(value) for part, value in interval._asdict().items()},
            "verdict": verdict(interval, difference.name, difference.minus, len(truth.images)),
        }
        for key, class_id, name, interval in found
    ]


def _images_json(comparison: Comparison, difference: Difference) -> dict[str, Any]:
    by_name = {detector.name: detector for detector in comparison.detectors}
    pair = [difference.name, difference.minus]

    def describe_image(image: int) -> dict[str, Any]:
        errors = {name: int(by_name[name].errors[image]) for name in pair}
        return {**_image(comparison, image), "errors": errors}

    return {
        "pair": pair,
        "fewer_errors": [describe_image(image) for image in difference.best_images(MOST_IMAGES)],
        "more_errors": [describe_image(image) for image in difference.reversed().best_images(MOST_IMAGES)],
    }


def _image(comparison: Comparison, image: int) -> dict[str, Any]:
    bench = comparison.bench
    return {"image_id": bench.image_ids[image], "file_name": bench.file_names[image]}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def write_comparison(
    comparison: Comparison, facts: Facts, rows: list[Published], said: list[str], folder: Path
) -> None:
    """Writes compare.json, compare.csv, differences.csv, per_class.csv, images.csv and published.csv, each whole."""
    found = comparison_json(comparison, facts, rows, said)
    with files.replacing(folder / "compare.json") as path:
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    files.write_csv(folder / "compare.csv", _detector_table(found))
    differences = [{**row, "pair": " minus ".join(row["pair"])} for row in found["differences"]]
    for name, table in (("differences", differences), ("published", found["published"])):
        files.write_csv(folder / f"{name}.csv", [list(table[0]), *(row.values() for row in table)] if table else [])
    files.write_csv(folder / "per_class.csv", _class_table(comparison))
    files.write_csv(folder / "images.csv", _image_table(comparison))


def _detector_table(found: dict[str, Any]) -> list[list[Any]]:
    """A row for each detector."""
    rows = []
    for name, one in found["detectors"].items():
        row: dict[str, Any] = {"detector": name}
        for key in coco_eval.NAMES:
            row[key] = one[key]
            if key in NUMBERS:
                row[f"{key}_low"], row[f"{key}_high"] = one["intervals"].get(key, (None, None))
        row |= {key: one[key] for key in ("mean_iou", "oLRP", "D_ECE", "LaECE")}
        row |= one["tide"] | {key: one[key] for key in ("detections", "images_with_results")}
        row |= {key: one["info"].get(key) for key in ("parameters", "images_per_second", "hardware", "pretraining")}
        rows.append(row)
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def _class_table(comparison: Comparison) -> list[list[Any]]:
    """A row for each class: AP of each detector, and each difference, with intervals."""
    detectors, differences = comparison.detectors, comparison.differences
    titles = [f"AP {one.name}" for one in detectors] + [f"{one.name} minus {one.minus}" for one in differences]
    rows = [
        ["id", "name", "images", "objects", *(f"{title}{end}" for title in titles for end in ("", " low", " high"))]
    ]
    for k, row in enumerate(detectors[0].metrics.classes):
        intervals: list[Interval] = [one.class_intervals[k] for one in detectors]
        intervals += [one.classes[k] for one in differences]
        values = [_known(value) for interval in intervals for value in interval]
        rows.append([row.id, row.name, row.images, row.objects, *values])
    return rows


def _image_table(comparison: Comparison) -> list[list[Any]]:
    """A row for each image, those first where detectors differ most."""
    detectors = comparison.detectors
    counts = [column for one in detectors for column in (one.false_positives, one.missed)]
    spread = [max(values) - min(values) for values in zip(*(one.errors.tolist() for one in detectors), strict=True)]
    titles = [f"{what} {one.name}" for one in detectors for what in ("false positives", "missed")]
    rows = [["image_id", "file_name", *titles]]
    for image in sorted(range(len(spread)), key=lambda image: -spread[image]):
        rows.append([*_image(comparison, image).values(), *(int(column[image]) for column in counts)])
    return rows
