"""A row of the log in each of its forms: for JSON, as a table, and as what a person reads."""

import json
import math
import resource
import sys

import jax
import numpy as np

from detr_jax.evaluation import coco_eval

SHOWN = (
    "loss", "test_loss", "loss_ce", "loss_bbox", "loss_giou", "class_error", "grad_norm", "lr", "images_per_second"
)  # fmt: skip


def as_plain(value):
    """A value as JSON can hold it: null for what is not finite, float32 in the shortest text that names it."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        value = np.asarray(value)
        value = float(str(value)) if value.dtype == np.float32 and value.ndim == 0 else value.tolist()
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_columns(row: dict) -> dict:
    """The row without lists: COCO's twelve numbers become coco_eval_bbox/AP and so on."""
    flat = {}
    for key, value in row.items():
        if key.startswith("coco_eval") and value is not None:
            flat |= {f"{key}/{name}": number for name, number in zip(coco_eval.NAMES, value, strict=True)}
        elif key != "AP_per_class":  # per_class.csv has it as a table
            flat[key] = json.dumps(value) if isinstance(value, list | dict) else value
    return flat


def as_line(row: dict) -> str:
    """What a person reads of a row; a number that is not finite is shown as it is."""
    words = [f"step {int(row['step'])}"]
    if "epoch" in row:
        words.append(f"epoch {float(row['epoch']):.2f}")
    words += [f"{key} {float(row[key]):.4g}" for key in SHOWN if row.get(key) is not None]
    if "coco_eval_bbox" in row:
        numbers = zip(coco_eval.NAMES, row["coco_eval_bbox"], strict=True)
        words += [f"{name} {number:.4f}" for name, number in numbers if name.startswith("AP")]
    return "  ".join(words)


def as_bar_text(row: dict) -> str:
    """The newest figures, for the progress bar, of a row or of several in one."""
    words = [f"loss {row['loss']:.4g}"] if row.get("loss") is not None else []
    words += [f"AP {row['coco_eval_bbox'][0]:.3f}"] if "coco_eval_bbox" in row else []
    if "images_per_second" in row:
        words += [f"{row['images_per_second']:.3g} images/s", f"waiting {row['data_wait']:.0%}"]
        words.append(f"{row.get('device_memory', _own_memory()) / 1e9:.1f} GB")
    return ", ".join(words)


def _own_memory() -> int:
    """Most bytes of memory that this process has used."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare_average(row: dict) -> str:
    """Which is better, the moving average or the weights themselves."""
    average, plain = (row[key][0] for key in ("coco_eval_bbox", "coco_eval_bbox_plain"))
    better = "the moving average is better" if average > plain else "the weights themselves are better"
    return f"AP {average:.4f} of the moving average, which is used, and {plain:.4f} of the weights: {better}"
