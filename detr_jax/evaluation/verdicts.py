"""What a comparison says, in sentences: who is better, by how much, where, and what the images cannot tell."""

import math
from itertools import combinations
from typing import Any

from detr_jax import names
from detr_jax.evaluation.compare import FEWEST_IMAGES, Comparison, Difference, Interval, Measured
from detr_jax.evaluation.facts import name_unknown
from detr_jax.evaluation.tide import TYPES

WORTH = 0.01  # AP50 by which the costs of an error type must differ to be spoken of
MOST_CLASSES = 5  # that a sentence names
MOST_PAIRS = 6  # detectors of which every pair is spoken of; of more, only what they are against the first
SIZES = {"AP_small": "small objects", "AP_medium": "medium objects", "AP_large": "large objects"}


def judge(comparison: Comparison, facts: dict[str, dict[str, Any]]) -> list[str]:
    """The sentences; ``facts`` of each detector by name."""
    said = _judge_images(comparison)
    images = len(comparison.bench.truth.images)
    for difference in chosen_pairs(comparison):
        said += [_judge_ap(difference, images), *_judge_sizes(difference), *_judge_classes(difference, comparison)]
    for other, one in combinations(comparison.detectors, 2):
        if other is comparison.detectors[0]:
            said += _judge_errors(one, other)
    return [line for line in (*said, _judge_facts(comparison, facts)) if line]


def chosen_pairs(comparison: Comparison) -> list[Difference]:
    """Every pair; of more than a few detectors, each against the first."""
    if len(comparison.differences) <= MOST_PAIRS:
        return comparison.differences
    first = comparison.detectors[0].name
    return [difference for difference in comparison.differences if difference.minus == first]


def verdict(interval: Interval, name: str, minus: str, images: int) -> str:
    """What a difference says."""
    if math.isnan(interval.estimate):
        return "there are no objects"
    if math.isnan(interval.low):
        return f"fewer than {FEWEST_IMAGES} images have such objects, which is too few to tell"
    if not interval.sign:
        return f"no difference that {images:,} images can show"
    return f"{name if interval.sign > 0 else minus} is better"


def signed(interval: Interval) -> str:
    """In points, with its interval."""
    if math.isnan(interval.estimate):
        return "-"
    text = f"{100 * interval.estimate:+.1f}"
    return text if math.isnan(interval.low) else f"{text} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def _judge_images(comparison: Comparison) -> list[str]:
    images, said = len(comparison.bench.truth.images), []
    most = max(len(detector.covered) for detector in comparison.detectors)
    for detector in comparison.detectors:
        count, name = len(detector.covered), names.legible(detector.name)
        if not detector.detections:
            said.append(f"{name} has no detections: AP 0. Is the file the right one?")
        elif count < most:
            said.append(
                f"{name} has results for {count:,} of {images:,} images, another detector for {most:,}: if it was not "
                "run on the others, its figures are too low and the comparison is unfair."
            )
    return said


def _judge_ap(difference: Difference, images: int) -> str:
    one, other = names.legible(difference.name), names.legible(difference.minus)
    interval = difference.numbers.get("AP")
    if interval is None:
        return "The annotations hold no objects, so there is nothing to compare."
    if math.isnan(interval.low) or not interval.sign:
        reason = verdict(interval, one, other, images)
        return f"{one} and {other}: {reason} (AP of {one} minus that of {other}: {signed(interval)})."
    if interval.sign < 0:
        one, other, interval = other, one, Interval(-interval.estimate, -interval.high, -interval.low)
    digits = 1 if 100 * interval.estimate >= 0.1 else 3
    estimate, low, high = (f"{100 * value:.{digits}f}" for value in interval)
    return f"{one} is better than {other}: {estimate} AP more (95 % interval {low} to {high})."


def _judge_sizes(difference: Difference) -> list[str]:
    """Sizes of objects where the sign is another one than that of AP."""
    whole = difference.numbers.get("AP")
    parts = [
        f"on {words} {names.legible(difference.name if interval.sign > 0 else difference.minus)} is better by "
        f"{abs(100 * interval.estimate):.1f} AP"
        for key, words in SIZES.items()
        if (interval := difference.numbers.get(key)) and interval.sign and whole and interval.sign != whole.sign
    ]
    return [f"But {', '.join(parts)}."] if parts else []


def _judge_classes(difference: Difference, comparison: Comparison) -> list[str]:
    said = []
    tested = sum(not math.isnan(interval.low) for interval in difference.classes)
    for side in (difference, difference.reversed()):
        if best := side.best_classes():
            shown = [
                f"{names.legible(comparison.bench.truth.names[k])} +{100 * side.classes[k].estimate:.1f}" for k in best
            ][:MOST_CLASSES]
            more = f" and {len(best) - len(shown)} more" if len(best) > len(shown) else ""
            said.append(
                f"{names.legible(side.name)} is better than {names.legible(side.minus)} in {len(best)} of {tested} "
                f"classes: {', '.join(shown)}{more}."
            )
    if said and tested >= 20:
        said[-1] += f" About {0.05 * tested:.0f} of {tested} classes would differ so far by chance alone."
    return said


def _judge_errors(one: Measured, other: Measured) -> list[str]:
    """The types of errors whose costs differ clearly, against the first detector."""
    said = []
    for kind in TYPES:
        gap = other.tide.costs[kind] - one.tide.costs[kind]
        if abs(gap) >= WORTH:
            less, more = (one, other) if gap > 0 else (other, one)
            said.append(
                f"{kind} {100 * less.tide.costs[kind]:.1f} for {names.legible(less.name)}, "
                f"{100 * more.tide.costs[kind]:.1f} for {names.legible(more.name)}"
            )
    return [f"What error types cost in AP50: {'; '.join(said)}."] if said else []


def _judge_facts(comparison: Comparison, facts: dict[str, dict[str, Any]]) -> str:
    parts = [
        f"{names.legible(detector.name)}: {', '.join(unknown)}"
        for detector in comparison.detectors
        if (unknown := name_unknown(facts.get(detector.name, {})))
    ]
    return f"Not known of {'; of '.join(parts)} (pass --info NAME=FILE)." if parts else ""
