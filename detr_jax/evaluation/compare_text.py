"""A comparison as text: the table that is printed, and compare.md."""

import math
from pathlib import Path
from typing import Any

from detr_jax import files, names
from detr_jax.evaluation.bootstrap import NUMBERS
from detr_jax.evaluation.compare import Comparison, Measured
from detr_jax.evaluation.facts import count_parameters, describe_facts
from detr_jax.evaluation.published import Published
from detr_jax.evaluation.tide import MEANINGS
from detr_jax.evaluation.verdicts import chosen_pairs, signed, verdict

HEADS = dict(zip(NUMBERS, ("AP", "AP50", "AP75", "APs", "APm", "APl"), strict=True))


def format_comparison(comparison: Comparison, rows: list[Published]) -> str:
    """The figures in lines of equal columns; AP and costs in points, the half width of the interval after the +-."""
    bench = comparison.bench
    columns = [names.legible(one.name) for one in comparison.detectors]
    width = max(19, *(len(column) + 2 for column in columns))
    lines = [
        f"{len(bench.truth.images):,} images, {int((bench.truth.crowds == 0).sum()):,} objects; 95 % intervals from "
        f"{bench.draws:,} draws of the images (seed {bench.seed})",
        " " * 10 + "".join(f"{column:>{width}}" for column in columns),
    ]
    for key, head in HEADS.items():
        lines.append(f"  {head:8}" + "".join(f"{_points(one, key):>{width}}" for one in comparison.detectors))
    for head, values in _measures(comparison.detectors).items():
        lines.append(f"  {head:8}" + "".join(f"{value:>{width}}" for value in values))
    if rows:
        lines += ["", "published, not measured here (* AP on COCO 2017 val):"]
        lines += [f"  * {row.AP:4.1f}  {_describe_row(row)}" for row in rows]
    return "\n".join(lines)


def _points(detector: Measured, key: str) -> str:
    interval = detector.intervals.get(key)
    if interval is None:
        return "-"
    if math.isnan(interval.low):
        return f"{100 * interval.estimate:.1f}"
    return f"{100 * interval.estimate:.1f} ({100 * interval.low:.1f}-{100 * interval.high:.1f})"


def _measures(detectors: list[Measured]) -> dict[str, list[str]]:
    """What has no interval."""
    rows = {
        "AR100": [one.metrics.AR100 for one in detectors],
        "mean IoU": [one.metrics.mean_iou for one in detectors],
        "oLRP": [one.mean_lrp for one in detectors],
        "D-ECE": [one.detection_error for one in detectors],
        "LaECE": [one.localisation_error for one in detectors],
    }
    found = {head: ["-" if value < 0 else f"{value:.3f}" for value in values] for head, values in rows.items()}
    return found | {kind: [f"{100 * one.tide.costs[kind]:.1f}" for one in detectors] for kind in MEANINGS}


def _describe_row(row: Published) -> str:
    parts = [f"{row.epochs} epochs" if row.epochs else "", count_parameters(row.parameters) if row.parameters else ""]
    return ", ".join([row.name, *(part for part in parts if part)])


def write_markdown(
    comparison: Comparison, facts: dict[str, dict[str, Any]], rows: list[Published], said: list[str], folder: Path
) -> None:
    """Writes compare.md: the sentences, then the tables."""
    bench, detectors = comparison.bench, comparison.detectors
    lines = ["# Detectors side by side", ""]
    lines += [
        f"{len(bench.truth.images):,} images, {int((bench.truth.crowds == 0).sum()):,} objects. 95 % intervals from "
        f"{bench.draws:,} draws of the images (seed {bench.seed}).",
        "",
        *(f"- {line}" for line in said),
        "",
        "## Measured",
        "",
    ]
    lines += _table(["", *(one.name for one in detectors)], [
        *([head, *(_points(one, key) for one in detectors)] for key, head in HEADS.items()),
        *([head, *values] for head, values in _measures(detectors).items()),
    ])  # fmt: skip
    lines += ["", "Cls to FN are what these errors cost in AP50: " + _meanings(), ""]
    lines += [f"- {names.legible(one.name)}: {describe_facts(facts.get(one.name, {}))}" for one in detectors]
    if pairs := chosen_pairs(comparison):
        images = len(bench.truth.images)
        titles = [f"{one.name} minus {one.minus}" for one in pairs]
        found = [[head, *(_cell(one, key, images) for one in pairs)] for key, head in HEADS.items()]
        lines += ["", "## Differences", "", *_table(["", *titles], found)]
    if rows:
        lines += ["", "## Published, not measured here", ""]
        table = [[row.name, row.AP, row.AP50, row.epochs, count_parameters(row.parameters), row.pretraining, row.source]
                 for row in rows]  # fmt: skip
        lines += _table(["", "AP", "AP50", "epochs", "parameters", "pretraining", "source"], table)
    with files.replacing(folder / "compare.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


def _meanings() -> str:
    return "; ".join(f"{kind}, {meaning}" for kind, meaning in MEANINGS.items()) + "."


def _cell(difference, key: str, images: int) -> str:
    interval = difference.numbers.get(key)
    if interval is None:
        return "-"
    said = verdict(interval, names.legible(difference.name), names.legible(difference.minus), images)
    return f"{signed(interval)}: {said}"


def _table(head: list[Any], rows: list[list[Any]]) -> list[str]:
    """A table of Markdown; None becomes "-"."""
    cells = [["-" if value is None else str(value).replace("|", "\\|") for value in row] for row in [head, *rows]]
    cells[0] = [names.legible(value) for value in cells[0]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]
