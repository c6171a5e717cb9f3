"""What looks wrong in a training, from the rows of its log: what was seen, and what to type.

Every rule waits until what it looks for would have gone in a healthy run, and is silent where it cannot be sure.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from detr_jax.evaluation.run_data import list_names

LEARNED = 0.05  # AP from which a detector has learned something, ...
LEARNED_WELL = 0.15  # ... and from which it should know every class
FEWEST = 10  # rows of training that tell something, ...
FEWEST_STEPS = 100  # ... and steps that they must span
FLAT = 0.97  # of the loss at the beginning: above it nothing was learned
RISEN = 1.2  # times the lowest loss
OVERFIT = 1.1  # times the lowest validation loss
SEEN = 0.1  # mean best score of an image, below which nothing is claimed
ALIKE = 0.03  # standard deviation of the boxes' centres in an image that is 1 wide
LONG_ENOUGH = 1000  # steps after which learned queries should differ
LOW_RATE, HIGH_RATE = 2e-5, 5e-4  # learning rates of AdamW between which detectors usually learn
TOO_HIGH_RATE = 5e-3  # nothing here learns well above it
WAITING = 0.3  # share of the time
PADDING = 0.35  # share of the pixels
FULL = 0.8  # of the queries
LOST_STEPS = 0.05
NAMED = 5  # classes


class Course(NamedTuple):
    """What is known of a run besides its log."""

    total_steps: int
    lr: float
    warmup_steps: int
    num_queries: int
    most_objects: int  # of an image to train on
    padding: float  # share of the pixels of an epoch's canvases


class Symptom(NamedTuple):
    """One thing that looks wrong."""

    name: str
    text: str  # settings in it are named as in the configuration: optim.lr=1e-4


class Log:
    """The rows of ``metrics.jsonl`` as arrays.

    Attributes:
      steps, losses: [R] of the rows of training; a loss may be nan.
      checks: the rows of evaluations.
    """

    def __init__(self, rows: Sequence[dict], course: Course):
        trained = [row for row in rows if "loss" in row]
        self.course, self._trained = course, trained
        self.steps = np.array([row["step"] for row in trained], float)
        self.losses = self.column("loss")
        self.checks = [row for row in rows if (row.get("coco_eval_bbox") or [-1])[0] >= 0]
        self.aps = [row["coco_eval_bbox"][0] for row in self.checks]

    def column(self, name: str) -> Float[np.ndarray, " R"]:
        """A column of the rows of training, nan where there is no number."""
        values = (row.get(name) for row in self._trained)
        return np.array([np.nan if value is None else value for value in values], float)

    @property
    def progress(self) -> float:
        """How much of the run is done."""
        last = max([*self.steps[-1:], *(row["step"] for row in self.checks[-1:])], default=0)
        return last / max(self.course.total_steps, 1)

    @property
    def smooth(self) -> Float[np.ndarray, " W"]:
        """Medians of the loss over tenths of the rows so far, without those of the warm-up."""
        counted = (self.steps > self.course.warmup_steps) & np.isfinite(self.losses)
        losses = self.losses[counted]
        if len(losses) < FEWEST or np.ptp(self.steps[counted]) < FEWEST_STEPS:
            return np.zeros(0)
        return np.array([np.median(part) for part in np.array_split(losses, 10)])


def find_symptoms(rows: Sequence[dict], course: Course) -> list[Symptom]:
    """What looks wrong now; the order is that of urgency."""
    log = Log(rows, course)
    found = [Symptom(name, text) for name, rule in RULES.items() if (text := rule(log))]
    names = {symptom.name for symptom in found}
    hidden = {other for name in names for other in HIDES.get(name, ())}
    return [symptom for symptom in found if symptom.name not in hidden]


def _lost_steps(log: Log) -> str:
    if not len(log.steps):
        return ""
    since = log.steps[-1 - FEWEST] if len(log.steps) > FEWEST else 0
    lost = np.nansum(log.column("skipped")[-FEWEST:]) / max(log.steps[-1] - since, 1)
    if lost < LOST_STEPS:
        return ""
    return (
        f"{lost:.0%} of the last steps had a loss or gradient that is not finite and changed nothing; "
        f"try optim.lr={log.course.lr / 10:g}, and dtype=float32 if it is another"
    )


def _rising_loss(log: Log) -> str:
    smooth = log.smooth
    if not len(smooth) or smooth[-1] < RISEN * smooth.min() or np.argmin(smooth) > 7:
        return ""
    return (
        f"the loss has risen from {smooth.min():.3g} to {smooth[-1]:.3g}: the learning rate is probably too high; "
        f"try optim.lr={log.course.lr / 5:g} in a new workdir"
    )


def _flat_loss(log: Log) -> str:
    smooth, rate = log.smooth, log.course.lr
    if not len(smooth) or log.progress < 0.1 or max(log.aps, default=0.0) > LEARNED or smooth[-1] < FLAT * smooth[0]:
        return ""
    seen = f"the loss is {smooth[-1]:.3g} and was {smooth[0]:.3g} at the beginning: nothing is learned"
    if rate < LOW_RATE:
        return f"{seen}, and optim.lr={rate:g} is low; try optim.lr=1e-4"
    if rate > HIGH_RATE:
        return f"{seen}, and optim.lr={rate:g} is high; try optim.lr=1e-4"
    return (
        f"{seen}; look whether the boxes lie on the objects (python -m detr_jax.dataset show), whether train.log says "
        "that weights were loaded, and what freeze= leaves to train"
    )


def _slow_learning(log: Log) -> str:
    rate, best = log.course.lr, max(log.aps, default=1.0)
    if log.progress < 0.3 or LOW_RATE <= rate <= TOO_HIGH_RATE or best > LEARNED:
        return ""
    seen = f"AP is {best:.3f} after {log.progress:.0%} of the run, and optim.lr={rate:g} is"
    return f"{seen} low; try optim.lr=1e-4" if rate < LOW_RATE else f"{seen} high; try optim.lr={rate / 10:g}"


def _no_object(log: Log) -> str:
    last = log.checks[-1] if log.checks else {}
    score = last.get("best_score")
    if score is None or score >= SEEN or log.aps[-1] > LEARNED or log.progress < 0.15:
        return ""
    return (
        f"everything is no object: the best score in an image is {score:.3f} on average. Every detector begins like "
        "that; if it lasts, start from weights (model.backbone_weights, init_from), or train for more steps"
    )


def _alike(log: Log) -> str:
    """Learned queries begin alike, so what counts is that they were apart before, or that it lasts."""
    spreads = [(row["step"], row["query_spread"]) for row in log.checks if row.get("query_spread") is not None]
    if not spreads or spreads[-1][1] >= ALIKE:
        return ""
    last, before = spreads[-1], max((spread for _, spread in spreads[:-1]), default=0.0)
    seen = f"all queries say nearly the same: their boxes' centres differ by {last[1]:.3f} of an image's side"
    if before > 3 * ALIKE:
        return (
            f"{seen}, and by {before:.3f} before; the learning rate is probably too high: "
            f"try optim.lr={log.course.lr / 5:g} in a new workdir, and optim.clip_norm=0.1"
        )
    if last[0] < LONG_ENOUGH or log.progress < 0.3:
        return ""
    return (
        f"{seen}, as at the beginning; try optim.lr=1e-4, start from weights (model.backbone_weights, init_from), or "
        "use the fast detector, whose queries begin at different places (the word fast)"
    )


def _overfit(log: Log) -> str:
    if len(log.aps) < 3:
        return ""
    best, ends = int(np.argmax(log.aps)), [row["step"] for row in log.checks]
    tests = np.array([row.get("test_loss", np.nan) for row in log.checks], float)
    since = log.losses[log.steps > ends[best]]
    before = log.losses[(log.steps <= ends[best]) & (log.steps > ends[best] - max(ends[0], 1))]
    if len(log.aps) - 1 - best < 2 or not len(since) or not len(before) or not np.isfinite(tests).all():
        return ""
    falls = np.nanmedian(since[-max(len(since) // 4, 1) :]) < 0.97 * np.nanmedian(before)
    if not falls or tests[-1] < OVERFIT * tests.min():
        return ""
    return (
        f"the training loss still falls, but AP has not risen since step {ends[best]} ({log.aps[best]:.3f}) and the "
        f"validation loss has risen from {tests.min():.3g} to {tests[-1]:.3g}: it learns its images by heart. The best "
        "checkpoint is kept; more images help, and fewer steps (train.patience=3 ends the run by itself)"
    )


def _unseen_classes(log: Log) -> str:
    scores = (log.checks[-1].get("AP_per_class") or {}) if log.checks else {}
    unseen = [name for name, value in scores.items() if value < 0.005]
    if not unseen or len(scores) < 2 or log.progress < 0.5 or log.aps[-1] < LEARNED_WELL:
        return ""
    return (
        f"AP is 0 for {list_names(unseen, NAMED)} while that of all classes is {log.aps[-1]:.3f}: look at their "
        "objects and how many there are (python -m detr_jax.dataset stats and show), and with what they are confused "
        "(python -m detr_jax.analyze errors)"
    )


def _few_queries(log: Log) -> str:
    most, queries = log.course.most_objects, log.course.num_queries
    if most <= FULL * queries:
        return ""
    return (
        f"an image has {most} objects and the model {queries} queries, one an object: in crowded images some will be "
        f"missed; try model.num_queries={-(-most * 3 // 20) * 10}"
    )


def _waiting(log: Log) -> str:
    waits = log.column("data_wait")
    waits = waits[np.isfinite(waits)]
    usual = np.median(waits[len(waits) // 2 :]) if len(waits) >= FEWEST else 0.0
    if usual < WAITING:
        return ""
    return (
        f"{usual:.0%} of the time is spent waiting for images: try data.resize=fast or data.resize=device, and as many "
        "data.threads as there are cores"
    )


def _padding(log: Log) -> str:
    if log.course.padding < PADDING:
        return ""
    return (
        f"{log.course.padding:.0%} of what is computed is padding: data.buckets=auto chooses canvases that fit the "
        "images, and a smaller train.batch_size leaves fewer images over"
    )


RULES: dict[str, Callable[[Log], str]] = {
    "lost steps": _lost_steps,
    "rising loss": _rising_loss,
    "flat loss": _flat_loss,
    "all queries alike": _alike,
    "everything is no object": _no_object,
    "slow learning": _slow_learning,
    "overfit": _overfit,
    "unseen classes": _unseen_classes,
    "few queries": _few_queries,
    "waiting for images": _waiting,
    "padding": _padding,
}
HIDES = {  # a symptom explains others
    "lost steps": ("rising loss", "flat loss"),
    "rising loss": ("flat loss", "all queries alike", "everything is no object", "overfit"),
    "flat loss": ("everything is no object", "slow learning"),
    "all queries alike": ("everything is no object", "unseen classes"),
    "slow learning": ("everything is no object",),
}
