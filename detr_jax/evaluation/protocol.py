"""By which rules average precision is computed: IoU thresholds, areas of objects, numbers of detections.

``COCO`` are COCO's own. Of any others, each figure is named by what differs, so that none passes for COCO's.
"""

from typing import NamedTuple

import numpy as np
from pycocotools.cocoeval import Params

from detr_jax.errors import UserError

RULES = Params("bbox")  # the same for "segm"
MOST_IOUS = 60  # thresholds are the bits of one integer
LARGEST = float(RULES.areaRng[0][1])  # pixels
OPTIONS = {
    "iou": "IoU thresholds of AP and AR: FROM:TO, FROM:TO:STEP or one; COCO's are 0.50:0.95:0.05.",
    "max_dets": "Detections of a class in an image that count: the largest, or all of a list; COCO's are 1,10,100.",
    "areas": "Ranges of area in pixels: NAME:FROM:TO,...; COCO's are small:0:32^2,medium:32^2:96^2,large:96^2:.",
}


class Area(NamedTuple):
    """Objects from ``low`` to ``high`` pixels, both included."""

    name: str
    low: float
    high: float


class Protocol(NamedTuple):
    """Ascending thresholds and limits; the first area is that of all objects."""

    ious: tuple[float, ...]
    areas: tuple[Area, ...]
    limits: tuple[int, ...]

    def index_of(self, iou: float) -> int | None:
        """Which threshold this is, if it is one."""
        return next((t for t, value in enumerate(self.ious) if np.isclose(value, iou, rtol=0, atol=1e-9)), None)

    @property
    def iou_range(self) -> str:
        """As COCO's lines have it, such as ``0.50:0.95``; the step is named where it is not 0.05."""
        first, last = _short(self.ious[0]), _short(self.ious[-1])
        if len(self.ious) == 1:
            return first
        step = (self.ious[-1] - self.ious[0]) / (len(self.ious) - 1)
        return f"{first}:{last}" + ("" if abs(step - 0.05) < 1e-9 else f":{_short(step)}")


class Figure(NamedTuple):
    """One number that a protocol gives: the mean over the IoU thresholds, or at one of them."""

    name: str
    is_recall: bool
    iou: int | None  # which threshold; None is the mean over all
    area: int
    limit: int


COCO = Protocol(
    tuple(RULES.iouThrs.tolist()),
    tuple(Area(name, *map(float, ends)) for name, ends in zip(RULES.areaRngLbl, RULES.areaRng, strict=True)),
    tuple(RULES.maxDets),
)


def list_figures(protocol: Protocol) -> list[Figure]:
    """The figures in COCO's order: AP, at IoU 0.5 and 0.75 if these are thresholds, by area; recall by limit, by area.

    COCO's names mean COCO's figures. What differs from COCO's rules stands in brackets behind the name.
    """
    ious, limits, last = protocol.ious, protocol.limits, len(protocol.limits) - 1
    by_iou = [] if ious == COCO.ious else [f"IoU={protocol.iou_range}"]
    by_limit = [] if limits[-1] == COCO.limits[-1] else [f"maxDets={limits[-1]}"]
    singles = [(name, t) for name, iou in (("AP50", 0.5), ("AP75", 0.75)) if (t := protocol.index_of(iou)) is not None]
    singles = singles if len(ious) > 1 else []
    figures = [Figure(_label("AP", by_iou + by_limit), False, None, 0, last)]
    figures += [Figure(_label(name, by_limit), False, t, 0, last) for name, t in singles]
    for number, area in enumerate(protocol.areas[1:], start=1):
        differs = by_iou + by_limit + _differing(area)
        figures.append(Figure(_label(f"AP_{area.name}", differs), False, None, number, last))
    figures += [Figure(_label(f"AR{limit}", by_iou), True, None, 0, m) for m, limit in enumerate(limits)]
    for number, area in enumerate(protocol.areas[1:], start=1):
        differs = by_iou + by_limit + _differing(area)
        figures.append(Figure(_label(f"AR_{area.name}", differs), True, None, number, last))
    return figures


class OtherFigures(NamedTuple):
    """The figures of a protocol that is not COCO's; -1 without objects."""

    protocol: Protocol
    numbers: list[float]  # of ``list_figures(protocol)``; the first is AP
    of_classes: list[list[float]]  # the same of each class, ascending by id

    @property
    def names(self) -> list[str]:
        """What the numbers are called."""
        return [figure.name for figure in list_figures(self.protocol)]

    def as_record(self) -> dict:
        """The rules, and the figures by name."""
        ious, areas, limits = self.protocol
        rules = {"iou": list(ious), "areas": {name: ends for name, *ends in areas}, "max_dets": list(limits)}
        return {"protocol": rules, "figures": dict(zip(self.names, self.numbers, strict=True))}


def format_figures(protocol: Protocol, numbers: list[float]) -> str:
    """A line for each figure, as pycocotools prints it; then the areas that are not COCO's."""
    lines = []
    for figure, number in zip(list_figures(protocol), numbers, strict=True):
        title = " Average Recall     (AR)" if figure.is_recall else " Average Precision  (AP)"
        iou = protocol.iou_range if figure.iou is None else _short(protocol.ious[figure.iou])
        area, limit = protocol.areas[figure.area].name, protocol.limits[figure.limit]
        lines.append(f"{title} @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>3} ] = {number:0.3f}")
    lines += [f" area {area.name}: {_span(area)} pixels" for area in protocol.areas if area not in COCO.areas]
    return "\n".join(lines)


def _label(name: str, differs: list[str]) -> str:
    return f"{name}[{', '.join(differs)}]" if differs else name


def _differing(area: Area) -> list[str]:
    return [] if area in COCO.areas else [f"area={_span(area)}"]


def _span(area: Area) -> str:
    return f"{area.low:.10g}:{'' if area.high == LARGEST else format(area.high, '.10g')}"


def _short(value: float) -> str:
    """Two digits behind the point, or as many as it has."""
    return f"{value:.2f}" if abs(value - round(value, 2)) < 1e-9 else f"{value:.6g}"


def read_protocol(iou: str | None = None, max_dets: str | None = None, areas: str | None = None) -> Protocol:
    """The protocol that the options describe; what is None is COCO's.

    Raises UserError for what cannot be understood.
    """
    return Protocol(
        _read_ious(iou) if iou is not None else COCO.ious,
        _read_areas(areas) if areas is not None else COCO.areas,
        _read_limits(max_dets) if max_dets is not None else COCO.limits,
    )


def _read_ious(text: str) -> tuple[float, ...]:
    try:
        first, last, step = ([float(part) for part in text.split(":")] + [None] * 2)[:3]
        last, step = first if last is None else last, 0.05 if step is None else step
        good = text.count(":") <= 2 and 0 < first <= last <= 1 and step > 0
        steps = (last - first) / step if good else -1
    except ValueError:
        good = False
    if not good:
        raise UserError(f"--iou={text} is not understood: pass one threshold above 0 and at most 1, or FROM:TO[:STEP]")
    if abs(steps - round(steps)) > 1e-6:
        raise UserError(f"--iou={text}: steps of {step:g} from {first:g} do not reach {last:g}; change the step")
    if steps >= MOST_IOUS:
        raise UserError(f"--iou={text} makes {round(steps) + 1} thresholds; at most {MOST_IOUS} are computed")
    ious = np.linspace(first, last, round(steps) + 1)
    same = len(ious) == len(COCO.ious) and np.allclose(ious, COCO.ious, rtol=0, atol=1e-9)
    return COCO.ious if same else tuple(ious.tolist())


def _read_limits(text: str) -> tuple[int, ...]:
    try:
        limits = sorted({int(part) for part in text.split(",")})
    except ValueError:
        limits = [0]
    if limits[0] < 1:
        raise UserError(f"--max_dets={text} is not understood: pass a number from 1 on, or several: 1,10,300")
    if len(limits) == 1:
        limits = [*(limit for limit in COCO.limits[:-1] if limit < limits[0]), *limits]
    return tuple(limits)


def _read_areas(text: str) -> tuple[Area, ...]:
    areas = [COCO.areas[0]]
    for part in text.split(","):
        name, *ends = (piece.strip() for piece in part.split(":"))
        try:
            low, high = (_pixels(ends[0] or "0"), _pixels(ends[1]) if ends[1] else LARGEST)
            good = name.isidentifier() and len(ends) == 2 and 0 <= low < high
        except (ValueError, IndexError, OverflowError):
            good = False
        if not good:
            raise UserError(
                f"--areas: {part!r} is not understood: pass NAME:FROM:TO,... in pixels of area, such as "
                "tiny:0:16^2,small:16^2:32^2,rest:32^2:"
            )
        if name in [area.name for area in areas]:
            raise UserError(f"--areas names {name!r} twice" if name != "all" else "--areas: all objects count anyway")
        areas.append(Area(name, low, min(high, LARGEST)))
    return tuple(areas)


def _pixels(text: str) -> float:
    """An area: a number, or a side squared, ``32^2``."""
    side, _, power = text.partition("^")
    if power not in ("", "2"):
        raise ValueError(text)
    value = float(side) ** int(power or 1)
    if not np.isfinite(value):
        raise ValueError(text)
    return value
