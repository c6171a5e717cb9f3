"""What became of a training, in sentences for somebody who was not there."""

from collections import Counter
from pathlib import Path

import numpy as np

from detr_jax import names
from detr_jax.evaluation.errors import Analysis
from detr_jax.evaluation.results import is_number
from detr_jax.evaluation.run_data import RunData, list_names
from detr_jax.evaluation.run_files import Evaluation, RunFiles, Session
from detr_jax.evaluation.symptoms import Course, find_symptoms
from detr_jax.spelling import count

CLEAR = 0.01  # AP by which two evaluations must differ before it is spoken of
CLASS_CLEAR = 0.03  # the same of one class
LOSS_CLEAR = 0.03  # share of the loss
FEW = 5  # evaluations after which a trend can be told from chance by eye
MEANINGS = {
    "AP": "How well boxes are found and placed, the mean over ten demands on their overlap (IoU 0.50 to 0.95) and over "
    "the classes: 1 is perfect, 0 is nothing.",
    "AP50": "The same where a box counts as soon as it overlaps its object by half (IoU 0.50): what is found, even if "
    "not exactly.",
    "AP75": "The same where boxes must fit closely (IoU 0.75).",
    "AR100": "Share of the objects that are found at all, with up to 100 detections of a class in an image, the mean "
    "over the same ten demands.",
}


def summarise_run(run: RunFiles, data: RunData, errors: Analysis | None) -> list[str]:
    """What was trained on what, how good it is, what it took, and how it ended."""
    return [
        _what(run, data),
        _how_good(run, data),
        *_in_use(errors),
        _effort(run),
        describe_end(run),
    ]


def _what(run: RunFiles, data: RunData) -> str:
    split = data.train or data.val
    what = "A detector"
    if split:
        known = split.categories.names
        what = f"A detector of {count(len(known), 'class', 'classes')} ({list_names(known)})"
    words = f"{what} was trained"
    images = f"{count(len(data.train), 'image')} of " if data.train else ""
    if run.config:
        words += f" on {images}{names.single_line(run.config.data.name)}"
    words += f" for {count(run.last_step, 'step')}"
    if epochs := [row["epoch"] for row in run.rows if is_number(row.get("epoch"))]:
        words += f" ({epochs[-1]:.3g} {'epoch' if epochs[-1] == 1 else 'epochs'})"
    return f"{words}, starting from {_beginning(run)}."


def _beginning(run: RunFiles) -> str:
    """What the weights were at step 0."""
    if run.config and run.config.init_from:
        return f"the detector {names.single_line(run.config.init_from)}"
    if run.config and run.config.model.backbone_weights:
        weights = names.single_line(Path(run.config.model.backbone_weights).name)
        return f"a pretrained backbone ({weights})"
    return "random weights" if run.config else "weights that are not known"


def describe_nothing_loaded(run: RunFiles) -> str:
    """What to say where the log tells of no weights."""
    if run.config and not run.config.init_from and not run.config.model.backbone_weights:
        return "Nothing: the weights were random at the start."
    return f"The log does not tell. By the settings the run began with {_beginning(run)}."


def _how_good(run: RunFiles, data: RunData) -> str:
    best = run.best
    if best is None:
        return "It has not been evaluated yet, so nothing is known of how good it is."
    images = f"{count(len(data.val), 'validation image')}" if data.val else "the validation images"
    if best.AP < 0:
        return f"It was evaluated on {images}, which hold no objects, so there is no AP."
    seen = run.config and run.config.data.train_split == run.config.data.val_split
    unseen = ", the same that it was trained on" if seen else ", which it was not trained on"
    where = f"at step {best.step:,}" if len(run.evaluations) > 1 else "at its only evaluation"
    return f"On {images}{unseen}, it reaches AP {best.AP:.3f} and AP50 {best.AP50:.3f} {where}."


def _in_use(errors: Analysis | None) -> list[str]:
    """Precision and recall at one threshold, which everybody understands."""
    if errors is None or errors.overall is None:
        return []
    point = errors.overall
    return [
        f"In use, with a score threshold of {point.threshold:.2f}, it finds {point.recall:.0%} of the objects, and "
        f"{point.precision:.0%} of what it finds is right."
    ]


def _effort(run: RunFiles) -> str:
    words = f"This took {describe_duration(run.seconds)}" if run.seconds else "How long it took is not known;"
    if len(run.sessions) > 1:
        words += f" in {len(run.sessions)} starts"
    return f"{words} on {describe_hardware(run.sessions[-1:])}."


def describe_hardware(sessions: list[Session]) -> str:
    """The devices of a start, equal ones counted."""
    record = sessions[0].record if sessions else {}
    devices = record.get("devices")
    if not isinstance(devices, list) or not devices:
        return "a machine that is not known"
    kinds = Counter("CPU" if str(one) == "cpu (cpu)" else str(one) for one in devices)
    words = " and ".join(f"{number} x {kind}" if number > 1 else f"one {kind}" for kind, number in kinds.items())
    hosts, cores = record.get("hosts"), record.get("cpu_cores")
    if "CPU" in kinds and isinstance(cores, int):
        words += f" with {count(cores, 'core')}"
    return words + (f" of {hosts} hosts" if isinstance(hosts, int) and hosts > 1 else "")


def describe_end(run: RunFiles) -> str:
    """Whether the run is finished."""
    if run.is_finished:
        if run.stopped_early:
            return f"The training ended early: AP had not risen for {run.config.train.patience} evaluations."
        return "The training is finished."
    done = f"{run.last_step:,} of {run.total_steps:,} steps" if run.total_steps else count(run.last_step, "step")
    last = run.sessions[-1].last_words if run.sessions else ""
    if last.startswith("stopped"):
        return f"The training was stopped and can be continued: {done} are logged."
    return f"The training is not finished: {done} are logged. It is still running, or it ended unexpectedly."


def describe_symptoms(run: RunFiles, data: RunData) -> list[str]:
    """What looks wrong in the log."""
    if run.config is None or run.total_steps is None:
        return []
    most = int(data.train.target_counts.max(initial=0)) if data.train else 0
    optim, queries = run.config.optim, run.config.model.num_queries
    course = Course(run.total_steps, optim.lr, optim.warmup_steps, queries, most, padding=0.0)
    return [f"{one.text[0].upper()}{one.text[1:]}." for one in find_symptoms(run.rows, course)]


def describe_duration(seconds: float | int | None) -> str:
    """``40 seconds``, ``13 minutes``, ``2 h 5 min``, ``3 days 4 h``."""
    if seconds is None:
        return "an unknown time"
    minutes = round(seconds / 60)
    hours = round(seconds / 3600)
    if seconds < 90:
        return count(round(seconds), "second")
    if minutes < 100:
        return count(minutes, "minute")
    if hours < 48:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{count(hours // 24, 'day')} {hours % 24} h"


def describe_progress(run: RunFiles) -> list[str]:
    """What was still improving when the log ends."""
    found = [one for one in run.evaluations if one.AP >= 0]
    loss = _loss_trend(run)
    if not found:
        return loss
    if len(found) == 1:
        return ["There is one evaluation only, so it cannot be said whether AP is still rising.", *loss]
    before = max([one for one in found if one.step <= 0.75 * found[-1].step] or found[:1], key=lambda one: one.step)
    said = [_score_trend(found, before)]
    if len(found) < FEW:
        said[0] += f" These are only {len(found)} evaluations: take it as a hint."
    return [*said, *_class_trends(before, found[-1]), *loss]


def _score_trend(found: list[Evaluation], before: Evaluation) -> str:
    last, best = found[-1], max(found, key=lambda one: one.AP)
    if best.AP - last.AP > CLEAR:
        return (
            f"AP has fallen since step {best.step:,}: from {best.AP:.3f} to {last.AP:.3f}. The best checkpoint is "
            "kept. More steps will not help; more images or stronger augmentation may."
        )
    change = f"from {before.AP:.3f} at step {before.step:,} to {last.AP:.3f} at step {last.step:,}"
    if last.AP - before.AP > CLEAR:
        return f"AP was still rising at the end, {change}: a longer training is likely to give more."
    return f"AP has hardly changed in the last part, {change}: a longer training alone is not likely to give more."


def _class_trends(before: Evaluation, last: Evaluation) -> list[str]:
    gains = {name: AP - before.by_class[name] for name, AP in last.by_class.items() if name in before.by_class}
    rising = sorted((name for name in gains if gains[name] > CLASS_CLEAR), key=lambda name: -gains[name])
    if not rising or len(last.by_class) < 2:
        return []
    return [f"Classes that were still improving: {list_names(rising, 6)}."]


def _loss_trend(run: RunFiles) -> list[str]:
    losses = np.array([row["loss"] for row in run.rows if is_number(row.get("loss"))], float)
    if len(losses) < 8:
        return []
    half = len(losses) // 2
    earlier, later = losses[half : half + half // 2].mean(), losses[half + half // 2 :].mean()
    if earlier <= 0 or later > (1 + LOSS_CLEAR) * earlier:
        return [f"The training loss was rising at the end ({earlier:.3g} to {later:.3g}): lower optim.lr."]
    if later < (1 - LOSS_CLEAR) * earlier:
        return [f"The training loss was still falling ({earlier:.3g} to {later:.3g} within the last half)."]
    return ["The training loss has levelled off."]


def describe_troubles(run: RunFiles) -> list[str]:
    """What was left out on the way: steps, images."""
    said = []
    for key, what in (("skipped", "step"), ("broken_images", "training image")):
        number = sum(int(row[key]) for row in run.rows if is_number(row.get(key)))
        why = "the gradient was not finite" if key == "skipped" else "decoding failed"
        if number:
            said.append(f"{count(number, what)} {'was' if number == 1 else 'were'} left out: {why}.")
    broken = [row["broken_validation_images"] for row in run.rows if is_number(row.get("broken_validation_images"))]
    if broken:
        said.append(f"{count(int(broken[-1]), 'validation image')} could not be decoded and count as not detected.")
    return said
