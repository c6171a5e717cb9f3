"""What a number in a training log is: programs name the same thing ``loss``, ``train/loss`` and ``total_loss``."""

import functools
import math
import re
from collections.abc import Mapping

AXES = ("step", "epoch", "images", "hours")
COCO = ("AP", "AP50", "AP75")  # the first three of COCO's twelve numbers

# The whole name in lower case, without its folder and its "train_": what it is here.
KNOWN = {
    "step": "step", "global_step": "step", "iteration": "step", "iter": "step", "epoch": "epoch",
    "images": "images", "hours": "hours", "time": "time", "wall_time": "time", "wall time": "time",
    "images_per_second": "images_per_second",
    "loss": "loss", "total_loss": "loss", "test_loss": "test_loss",
    "lr": "lr", "learning_rate": "lr", "pg0": "lr", "class_error": "class_error", "grad_norm": "grad_norm",
}  # fmt: skip
VALIDATION = re.compile(r"(^|/)(val|valid|validation|eval|test)(/|_|$)")
AP_NAMES = re.compile(r"(m?ap)(|50-95|50_95|_0\.5:0\.95|[@_]?50|[@_]?75|[@_]0\.5|[@_]0\.75)(\(b\))?")
MASKS = re.compile(r"segm|mask|\(m\)|keypoint|\(p\)")
PART = re.compile(r"loss(_[a-z]+)+|([a-z]+_)+loss")  # not loss_ce_0: the auxiliary losses of a decoder layer
NO_PARTS = ("_enc", "_dn", "_unscaled")


@functools.lru_cache(10_000)
def column_name(name: str) -> str | None:
    """The name here of a column, scalar or key of a log: an axis, a loss, ``AP`` ...; None for what is not drawn.

    ``val/mAP``, ``bbox/AP`` and ``metrics/mAP50-95(B)`` are all ``AP``; ``val/loss`` is ``test_loss``.
    """
    full = name.strip().lower().replace("coco_eval_bbox", "bbox")
    last = full.rpartition("/")[2]
    validation = VALIDATION.search(full) is not None
    for prefix in ("train_", "val_", "valid_", "validation_", "eval_", "test_", "bbox_", "coco_"):
        last = last.removeprefix(prefix)
    if last in ("ap", "map") or AP_NAMES.fullmatch(last):
        return None if MASKS.search(full) else _ap_name(last)
    if validation:
        return "test_loss" if KNOWN.get(last) == "loss" else None
    if last in KNOWN:
        return KNOWN[last]
    return last if PART.fullmatch(last) and not last.endswith(NO_PARTS) else None


def _ap_name(last: str) -> str:
    rest = last.removeprefix("m").removeprefix("ap").removesuffix("(b)")
    if rest in ("", "50-95", "50_95", "_0.5:0.95"):
        return "AP"
    return "AP75" if "75" in rest else "AP50"


def known_columns(logged: Mapping[str, object]) -> dict[str, float | None]:
    """The numbers of one row of a log, by their names here; None for what is null, NaN or infinite.

    COCO's lists of twelve numbers become AP, AP50 and AP75; -1 in them says that there was nothing to score. Loss terms
    that the original DETR logs weighted and ``_unscaled`` are the unscaled ones, as ours are.
    """
    row: dict[str, float | None] = {}
    unscaled = {key.removesuffix("_unscaled"): value for key, value in logged.items() if key.endswith("_unscaled")}
    for key, value in {**logged, **unscaled}.items():
        if isinstance(value, list) and key.endswith("coco_eval_bbox"):
            row |= {name: _number(one) for name, one in zip(COCO, value, strict=False)}
            continue
        name = None if isinstance(value, list | dict | bool) else column_name(key)
        if name is not None and value != "" and name not in row:
            row[name] = _number(value)
    return {name: value for name, value in row.items() if not (name in COCO and value is not None and value < 0)}


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
