"""The page about a detector's errors: ``report.html``, one file with all figures, boxes and small photos."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from detr_jax import files
from detr_jax.evaluation import examples, thumbnails
from detr_jax.evaluation.errors import Analysis, as_json
from detr_jax.evaluation.examples import Example
from detr_jax.evaluation.operating_points import thin
from detr_jax.evaluation.page import build_page
from detr_jax.evaluation.thumbnails import Thumbnails
from detr_jax.evaluation.tide import MEANINGS

MOST_CURVE_POINTS = 50_000  # of all classes together
CURVE_POINTS = (20, 150)  # least and most of one class
ELSEWHERE = ("confusion_matrix", "confusion_matrix_at_thresholds", "most_confused", "worst_images")
NAMED = 3  # photos that a note names


class Compared(NamedTuple):
    """What was compared, as the page names it, and the folder of the photos if it is known."""

    annotations: str
    predictions: str
    photos: Path | None


def write_report(errors: Analysis, advice: list[str], source: Compared, path: Path) -> list[str]:
    """Writes the page, whole, and returns sentences about photos that could not be used."""
    shown = examples.list_examples(errors, examples.rank_examples(errors))
    made = Thumbnails({}, {})
    if source.photos:
        wanted = {one.image: (errors.file_names[one.image], tuple(errors.sizes[one.image].tolist())) for one in shown}
        made = thumbnails.make_thumbnails(source.photos, wanted)
    notes = describe_problems(made)
    data = report_data(errors, advice, shown, source)
    data |= {"pictures": sorted(made.pictures), "notes": notes}
    text = build_page("errors", f"Error analysis of {source.predictions}", data, made.pictures)
    with files.replacing(path) as sibling:
        sibling.write_text(text, encoding="utf-8")
    return notes


def describe_problems(made: Thumbnails) -> list[str]:
    """One sentence about the photos that could not be used, if there are any."""
    if not made.problems:
        return []
    some = "; ".join(list(made.problems.values())[:NAMED])
    more = "; ..." if len(made.problems) > NAMED else ""
    count = len(made.problems)
    return [f"{count} {'photo is' if count == 1 else 'photos are'} not shown: {some}{more}"]


def report_data(errors: Analysis, advice: list[str], shown: list[Example], source: Compared) -> dict[str, Any]:
    """What the page shows: errors.json without what stands in it in another form, then cells, curves and images."""
    figures = {name: value for name, value in as_json(errors, advice).items() if name not in ELSEWHERE}
    place = {example.image: number for number, example in enumerate(shown)}
    for row, suspect in zip(figures["suspects"], errors.suspects, strict=True):
        row["place"] = place.get(suspect.image)
    rows, columns = np.nonzero(errors.confusion + errors.confusion_at_thresholds)
    least, most = CURVE_POINTS
    points = int(np.clip(MOST_CURVE_POINTS // max(len(errors.curves), 1), least, most))
    return figures | {
        "source": {"annotations": source.annotations, "predictions": source.predictions, "photos": bool(source.photos)},
        "meanings": MEANINGS,
        "cells": np.column_stack(
            [rows, columns, errors.confusion_at_thresholds[rows, columns], errors.confusion[rows, columns]]
        ).tolist(),
        "curves": [[[round(value, 4) for value in point] for point in thin(curve, points)] for curve in errors.curves],
        "example_images": [_image(errors, example) for example in shown],
    }


def _image(errors: Analysis, example: Example) -> dict[str, Any]:
    height, width = errors.sizes[example.image]
    boxes = np.array(example.objects).reshape(-1, len(examples.OBJECT))[:, :4] / 10
    if not np.isfinite([height, width]).all():  # as large as what is annotated on it
        width, height = (boxes[:, :2] + boxes[:, 2:]).max(axis=0, initial=1)
    return {
        "number": example.image,
        "image_id": errors.image_ids[example.image],
        "file_name": errors.file_names[example.image],
        "width": float(width),
        "height": float(height),
        "objects": example.objects,
        "detections": example.detections,
        "shown": example.shown,
    }
