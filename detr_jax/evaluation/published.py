"""Published figures of other detectors on COCO, each with its source: ``published.json``."""

import importlib.resources
import json
from typing import NamedTuple

STANDING = (
    "Plain DETR (R50, 41 M parameters, 500 epochs: 42.0 AP) is 10 to 15 AP behind the real-time DETRs of 2024 to 2026 "
    "of similar size (RT-DETR R50 53.1, D-FINE L 54.0, RF-DETR L 56.5)."
)
IMAGES = 5000  # of COCO 2017 val
MOST_SHOWN = 12


class Published(NamedTuple):
    """A published row; AP in percent. None is what the source that was read does not say."""

    name: str
    split: str
    AP: float
    AP50: float | None
    AP75: float | None
    AP_small: float | None
    AP_medium: float | None
    AP_large: float | None
    parameters: int | None
    epochs: int | None
    resolution: str | None
    speed: str | None
    pretraining: str
    source: str
    note: str | None


def read_published() -> list[Published]:
    """All rows, ascending by AP."""
    text = importlib.resources.files("detr_jax.evaluation").joinpath("published.json").read_text(encoding="utf-8")
    return [Published(**row) for row in json.loads(text)["rows"]]


def nearest(rows: list[Published], measured: list[float], most: int = MOST_SHOWN) -> list[Published]:
    """The rows with the AP nearest to the measured ones (0 to 1), plain DETR always among them."""
    distance = {row: min(abs(row.AP - 100 * value) for value in measured) for row in rows}
    plain = next(row for row in rows if row.name == "DETR R50" and row.epochs == 500)
    others = sorted((row for row in rows if row != plain), key=distance.__getitem__)[: most - 1]
    return sorted([plain, *others], key=lambda row: (row.AP, row.name))


def caveat(is_coco: bool, images: int) -> str:
    """In which way these figures and the measured ones cannot be compared; empty where they can."""
    if not is_coco:
        return "These annotations are not COCO's 80 classes: published figures are for another dataset."
    if images != IMAGES:
        return (
            f"These annotations have COCO's classes but {images:,} images, not the {IMAGES:,} of COCO 2017 val: "
            "published figures are for other images."
        )
    return ""
