"""Pictures of an error analysis: costs of the error types, confusion, curves, calibration, misses."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detr_jax import names
from detr_jax.evaluation.calibration import BINS
from detr_jax.evaluation.confusion import rates
from detr_jax.evaluation.errors import Analysis
from detr_jax.evaluation.plots import MOST_CURVES, name_legend, save_figure
from detr_jax.evaluation.tide import MEANINGS

MOST_NAMES = 30  # classes of which a matrix shows the names and counts
MOST_CLASSES = 60  # classes that a matrix shows, those with the most confusion


def draw_all(errors: Analysis, folder: Path) -> None:
    """Writes tide.png, confusion_matrix.png, curves.png, calibration.png and misses.png."""
    save_figure(draw_costs(errors), folder / "tide.png")
    save_figure(draw_confusion(errors), folder / "confusion_matrix.png")
    save_figure(draw_curves(errors), folder / "curves.png")
    save_figure(draw_calibration(errors), folder / "calibration.png")
    save_figure(draw_misses(errors), folder / "misses.png")


def draw_costs(errors: Analysis) -> Figure:
    """What each type of error costs."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panel = figure.subplots()
    costs = [100 * errors.tide.costs[name] for name in MEANINGS]
    colors = ["C0"] * 6 + ["C7"] * 2
    panel.barh(range(len(costs)), costs, color=colors)
    panel.set_yticks(range(len(costs)), [f"{name}: {meaning}" for name, meaning in MEANINGS.items()])
    panel.invert_yaxis()
    for row, cost in enumerate(costs):
        panel.text(cost, row, f" {cost:.1f}", va="center")
    panel.set(xlabel="AP50 that would be gained without these errors", xlim=(0, max(*costs, 1.0) * 1.12))
    panel.set_title(f"error types at AP50 {100 * errors.tide.AP50:.1f}")
    return figure


def draw_confusion(errors: Analysis) -> Figure:
    """The matrix at the thresholds, as shares of the objects of each class."""
    matrix, classes = errors.confusion_at_thresholds, len(errors.names)
    chosen = np.arange(classes)
    if classes > MOST_CLASSES:
        wrong = matrix[:-1].sum(axis=1) - np.diag(matrix)[:-1]
        chosen = np.sort(np.argsort(-wrong, kind="stable")[:MOST_CLASSES])
    shown = [*chosen.tolist(), classes]
    part, share = matrix[np.ix_(shown, shown)], rates(matrix)[np.ix_(shown, shown)]
    share[-1] = part[-1] / max(part[-1].max(), 1)  # the background has no number of objects
    side = min(max(5.0, 0.4 * len(shown) + 2.5), 18.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    panel = figure.subplots()
    panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(shown) <= MOST_NAMES + 1:
        for (row, column), count in np.ndenumerate(part):
            if count:
                color = "white" if share[row, column] > 0.5 else "black"
                panel.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
    texts = [names.legible(errors.names[k]) if k < classes else "background" for k in shown]
    size = 9 if len(shown) <= MOST_NAMES + 1 else 6
    for set_ticks in (panel.set_xticks, panel.set_yticks):  # names are data: ``$`` is no markup
        set_ticks(range(len(shown)), texts, parse_math=False, family="DejaVu Sans", fontsize=size)
    panel.tick_params(axis="x", rotation=90)
    title = "confusion at the threshold of each class, IoU .5"
    panel.set_title(title if len(chosen) == classes else f"{title}: the {MOST_CLASSES} most confused classes")
    panel.set(xlabel="detection", ylabel="object")
    return figure


def draw_curves(errors: Analysis) -> Figure:
    """Precision over recall, and F1 over the threshold, of each class or of those with the most objects."""
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    order = sorted(range(len(errors.curves)), key=lambda k: -errors.curves[k].objects)
    order = sorted(k for k in order[:MOST_CURVES] if errors.curves[k].objects and errors.curves[k].scores.size)
    for i, k in enumerate(order):
        curve, style = errors.curves[k], "-" if i < 10 else "--"  # colours repeat after ten
        left.plot(curve.recall, curve.precision, style, label=str(k))
        right.plot(curve.scores, curve.f1, style, label=str(k))
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03), title="IoU .5")
    right.set(xlabel="threshold", ylabel="F1", xlim=(0, 1.01), ylim=(0, 1.03), title="IoU .5")
    for panel in (left, right):
        panel.grid(alpha=0.3)
    if order:
        legend = right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
        labels = []
        for k in order:
            point = errors.points[k]
            labels.append(
                f"{names.legible(errors.names[k])}"
                + (f"   best F1 {point.f1:.2f} at {point.threshold:.2f}" if point else "")
            )
        name_legend(legend, labels)
    return figure


def draw_calibration(errors: Analysis) -> Figure:
    """The reliability diagram, over how many detections have such scores."""
    figure = Figure(figsize=(6, 6.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = errors.reliability
    middles, some = (np.arange(BINS) + 0.5) / BINS, bins.counts > 0
    upper.plot([0, 1], [0, 1], "--", color="grey", label="a score means what it says")
    upper.bar(middles[some], bins.precision[some], 0.9 / BINS, alpha=0.6, label="share of correct detections")
    upper.plot(bins.scores[some], bins.precision[some], "o-", color="C1")
    upper.set(ylabel="correct", xlim=(0, 1), ylim=(0, 1.02))
    upper.set_title(f"D-ECE {errors.reliability.error:.3f}   LaECE {errors.localisation_error:.3f}")
    upper.legend(loc="upper left", fontsize=9)
    lower.bar(middles, bins.counts, 0.9 / BINS, color="C7")
    lower.set(xlabel="score", ylabel="detections")
    return figure


def draw_misses(errors: Analysis) -> Figure:
    """For each group, the share of its objects that is found at the thresholds, and without any."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    panel: Axes = figure.subplots()
    groups = [group for group in errors.groups if group.objects]
    rows = np.arange(len(groups))
    found = np.array([group.found / group.objects for group in groups])
    reached = np.array([group.reached / group.objects for group in groups])
    panel.barh(rows, reached, color="C0", alpha=0.3, label="found with any score")
    panel.barh(rows, found, color="C0", label="found at the threshold of its class")
    panel.set_yticks(rows, [f"{group.kind}: {group.name} ({group.objects})" for group in groups])
    for row, (share, group) in enumerate(zip(found, groups, strict=True)):
        panel.text(1.01, row, f"{group.missed} missed, {1 - share:.0%}", va="center", fontsize=9)
    panel.invert_yaxis()
    panel.set(xlabel="share of the objects", xlim=(0, 1.25))
    panel.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, fontsize=9, frameon=False)
    return figure
