"""What to do about the errors, in sentences: each with its number and what to type."""

from detr_jax.evaluation.confusion import most_confused
from detr_jax.evaluation.errors import Analysis

WORTH = 0.02  # AP50 that a type of error must cost to be spoken of
MANY = 0.5  # share of all misses that makes a group the first thing to look at
FAR = 0.05  # D-ECE from which scores mislead
ADVICE = {
    "Cls": "The wrong class at the right place costs {cost:.1f} AP50 ({count:,} detections): look at the most confused "
    "pairs, merge classes that annotators mix up, or add images of the rarer one of each pair.",
    "Loc": "Localisation costs {cost:.1f} AP50 ({count:,} detections with IoU .1 to .5): train longer, raise the "
    "resolution (data.scales, data.max_size), or raise loss.giou_weight.",
    "Both": "Wrong class and wrong box together cost {cost:.1f} AP50 ({count:,} detections): the model is not trained "
    "to its end; raise train.epochs before anything else.",
    "Dupe": "Duplicates cost {cost:.1f} AP50 ({count:,} detections): the queries have not settled who finds what. "
    "Train longer, and make sure that no object is annotated twice (python -m detr_jax.dataset check).",
    "Bkg": "Detections where nothing is annotated cost {cost:.1f} AP50 ({count:,} detections): look at suspects.csv, "
    "for some may be objects that nobody annotated; then raise the threshold, or add images without objects.",
    "Miss": "Missed objects cost {cost:.1f} AP50 ({count:,} objects that nothing comes near): misses.csv tells which; "
    "raise the resolution, or the number of such images.",
}


def advise(errors: Analysis) -> list[str]:
    """The most expensive first; empty where there is nothing to say."""
    if errors.metrics.AP < 0:
        return ["The annotations hold no objects, so there is nothing to compare with."]
    if not len(errors.pairing.scores):
        return [
            "There are no detections: every object is missed. Was the model trained, and is the file the right one?"
        ]
    said = [
        _describe_type(errors, name) for name in sorted(errors.tide.counts, key=lambda name: -errors.tide.costs[name])
    ]
    return [
        line
        for line in (*said, _misses(errors), _confused(errors), _threshold(errors), _scores(errors), _labels(errors))
        if line
    ]


def _describe_type(errors: Analysis, name: str) -> str:
    cost, count = errors.tide.costs[name], errors.tide.counts[name]
    return ADVICE[name].format(cost=100 * cost, count=count) if cost >= WORTH else ""


def _misses(errors: Analysis) -> str:
    missed = sum(group.missed for group in errors.groups if group.kind == "size")
    groups = [group for group in errors.groups if group.kind in ("size", "crowding", "edge") and group.missed]
    groups = [group for group in groups if _stands_out(group, errors)]
    if not missed or not groups:
        return ""
    worst = max(groups, key=lambda group: group.missed)
    what = {
        "size": "train and predict at a higher resolution: data.scales, data.max_size and data.buckets",
        "crowding": "use the word fast, whose queries are chosen from the image, and more model.num_queries",
        "edge": "keep data.crop, which shows cut objects in training",
    }[worst.kind]
    share, such = worst.missed / missed, f"{worst.missed} of {worst.objects} such objects are missed"
    return f"{share:.0%} of all misses are {worst.name} ({such}): {what}."


def _stands_out(group, errors: Analysis) -> bool:
    """Whether a group is missed clearly more often than all objects are."""
    missed = sum(one.missed for one in errors.groups if one.kind == group.kind)
    all_missed = missed / max(errors.found.size, 1)
    return group.missed >= MANY * missed and group.missed / group.objects > 1.1 * all_missed


def _confused(errors: Analysis) -> str:
    pairs = most_confused(errors.confusion_at_thresholds, limit=1)
    if not pairs or pairs[0][2] < 3:
        return ""
    row, column, count = pairs[0]
    objects = errors.metrics.classes[row].objects
    names = errors.names
    return f"{names[row]!r} is most often taken for {names[column]!r}: {count} of {objects} objects."


def _threshold(errors: Analysis) -> str:
    if not errors.overall:
        return "No detection is correct at IoU .5: check that the results belong to these annotations."
    point = errors.overall
    return (
        f"Threshold {point.threshold:.2f} for all classes gives the highest F1, {point.f1:.2f} (precision "
        f"{point.precision:.2f}, recall {point.recall:.2f}): predict --threshold={point.threshold:.2f}. The best of "
        "each class is in thresholds.json: predict --thresholds=thresholds.json."
    )


def _scores(errors: Analysis) -> str:
    before, after = errors.recalibrated.before, errors.recalibrated.after
    if errors.reliability.error < FAR:
        return ""
    kept = ~errors.pairing.ignored
    mean, right = errors.pairing.scores[kept].mean(), errors.pairing.correct[kept].mean()
    fitted = (
        f"The table in calibration.json corrects them: fitted on half of the images, it brings D-ECE on the others "
        f"from {before:.3f} to {after:.3f}."
        if after < before
        else "There are too few detections to correct that."
    )
    return (
        f"Scores are too {'high' if mean > right else 'low'}: {mean:.2f} on average where {right:.2f} are correct "
        f"(D-ECE {errors.reliability.error:.3f}). {fitted}"
    )


def _labels(errors: Analysis) -> str:
    if not errors.suspects:
        return ""
    kinds = {kind: sum(one.kind == kind for one in errors.suspects) for kind in ("missing", "class", "box")}
    words = {"missing": "likely missing", "class": "likely of another class", "box": "likely with another box"}
    parts = [f"{count} {words[kind]}" for kind, count in kinds.items() if count]
    return f"Look at {len(errors.suspects)} annotations in suspects.csv before the next training: {', '.join(parts)}."
