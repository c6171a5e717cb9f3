"""What is known of a detector besides its results: parameters, speed, hardware, pretraining."""

import json
import math
from pathlib import Path
from typing import Any

from detr_jax.errors import UserError

NUMBERS = ("parameters", "images_per_second")
KNOWN = (*NUMBERS, "hardware", "pretraining")
WORDS = {"images_per_second": "speed"}
MOST_BYTES = 1_000_000


def read_facts(path: Path) -> dict[str, Any]:
    """The file of ``--info``: a JSON object with any of KNOWN, and any other keys with a text or a number each.

    Raises UserError when it is something else.
    """
    example = 'a JSON object such as {"parameters": 41300000, "images_per_second": 28, "hardware": "V100"}'
    try:
        facts = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MOST_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--info: {path} cannot be read as JSON ({error}); write {example}") from error
    if not isinstance(facts, dict):
        raise UserError(f"--info: {path} is not {example}")
    for key, value in facts.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in NUMBERS and value is not None and not (number and math.isfinite(value) and value > 0):
            raise UserError(f"--info: {path} has {key} {str(value)[:40]!r}, which must be a number above 0")
        if isinstance(value, list | dict) or (number and not math.isfinite(value)):
            raise UserError(f"--info: {path}: {key[:40]} must be a text or a number")
    return {key: value for key, value in facts.items() if value is not None}


def name_unknown(facts: dict[str, Any]) -> list[str]:
    """Which of KNOWN are missing, in words."""
    return [WORDS.get(key, key) for key in KNOWN if key not in facts]


def describe_facts(facts: dict[str, Any]) -> str:
    """On one line; "not known" for what is missing of KNOWN."""
    unknown = "not known"
    parts = [
        f"{count_parameters(facts.get('parameters'))} parameters" if "parameters" in facts else f"parameters {unknown}",
        f"{facts['images_per_second']:g} images/s" if "images_per_second" in facts else f"speed {unknown}",
        *(f"{key} {facts.get(key, unknown)}" for key in ("hardware", "pretraining")),
        *(f"{key} {value}" for key, value in facts.items() if key not in KNOWN),
    ]
    return ", ".join(parts)


def count_parameters(number: int | float | None) -> str:
    """In millions; "-" where it is not known."""
    return "-" if number is None else f"{number / 1e6:.1f} M"
