"""The figures of the classes as text: a table for a terminal, and a line for the log of a training."""

from detr_jax import names
from detr_jax.evaluation.coco_eval import ClassMetrics

MOST = 40  # rows of a table; of more classes the best and the worst
FEW = 3  # classes that a line names at each end
COLUMNS = ("AP", "AP50", "AR100", "objects", "detections")


def format_classes(rows: list[ClassMetrics], most: int = MOST) -> str:
    """The classes by descending AP, then by AP50, AR100, number of objects and of detections; -1 without objects."""
    texts = [names.legible(row.name) for row in rows]
    width = max(5, *map(len, texts), 0)
    ordered = sorted(zip(rows, texts, strict=True), key=lambda pair: _rank(pair[0]))
    lines = [f"{text:{width}}  " + _cells(row) for row, text in ordered]
    if len(lines) > most:
        between = f"... {len(lines) - most} more ..."
        lines = [*lines[: most - most // 2], between, *lines[len(lines) - most // 2 :]]
    head = f"{'class':{width}}  " + "".join(f"{name:>12}" if name in COLUMNS[3:] else f"{name:>8}" for name in COLUMNS)
    return "\n".join([head, *lines])


def _rank(row: ClassMetrics) -> tuple:
    return tuple(-getattr(row, name) for name in COLUMNS)


def _cells(row: ClassMetrics) -> str:
    return f"{row.AP:8.3f}{row.AP50:8.3f}{row.AR100:8.3f}{row.objects:12,d}{row.detections:12,d}"


def average_precisions(rows: list[ClassMetrics]) -> dict[str, float]:
    """AP by the name of each class that has objects; of several classes of one name, with their ids."""
    every = [row.name for row in rows]
    return {row.name if every.count(row.name) == 1 else f"{row.name} ({row.id})": row.AP for row in rows if row.objects}


def format_ends(by_name: dict[str, float]) -> str:
    """The classes and their AP in one line, the best first; of many those at both ends."""
    ordered = sorted(by_name.items(), key=lambda item: -item[1])
    words = [f"{names.legible(name)} {AP:.3f}" for name, AP in ordered]
    if len(words) > 2 * FEW:
        return f"best classes: {', '.join(words[:FEW])}; worst: {', '.join(words[-FEW:])}"
    return f"AP of the classes: {', '.join(words)}"
