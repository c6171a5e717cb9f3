"""Plots: precision over recall, and the curves of a training.

Figures are made without pyplot, so they can be drawn in any thread and never open a window.
"""

import math
import os

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import LogFormatter

from detr_jax import files, names

RECALL = np.linspace(0.0, 1.0, 101)  # COCO's recall levels
MOST_CURVES = 12  # classes up to which each has its own curve; more cannot be told apart
PANELS = {  # title: the keys of a row that are drawn
    "loss": ("loss", "test_loss"),
    "loss terms, last decoder layer": ("loss_ce", "loss_bbox", "loss_giou", "loss_mask", "loss_dice"),
    "box AP": ("AP", "AP50", "AP75"),
    "class error (%)": ("class_error", "test_class_error"),
    "learning rate": ("lr",),
    "gradient norm": ("grad_norm",),
}
LOGARITHMIC = {"loss", "loss terms, last decoder layer", "learning rate", "gradient norm"}


def pr_curve(metrics, path: str | os.PathLike) -> None:
    """Plots precision over recall of a ``CocoMetrics``: the mean over classes, and each class if they are few."""
    with_objects = [k for k, row in enumerate(metrics.classes) if row.objects]
    several = 1 < len(with_objects) <= MOST_CURVES
    figure = Figure(figsize=(12 if several else 6.5, 5), layout="constrained")
    panels = figure.subplots(1, 2 if several else 1, squeeze=False)[0]

    if with_objects:
        curves = np.maximum(metrics.precision[:, :, with_objects], 0.0)
        mean = curves.mean(axis=-1)  # [IoU, recall]
        panels[0].plot(RECALL, mean.mean(axis=0), "black", lw=2.5, label=f"IoU 0.50:0.95   AP {metrics.AP:.3f}")
        panels[0].plot(RECALL, mean[0], label=f"IoU 0.50   AP50 {metrics.AP50:.3f}")
        panels[0].plot(RECALL, mean[5], label=f"IoU 0.75   AP75 {metrics.AP75:.3f}")
        panels[0].set_title(f"mean over {len(with_objects)} {'class' if len(with_objects) == 1 else 'classes'}")
    else:
        _write_note(panels[0], "no objects in the ground truth")
    if several:
        for i, k in enumerate(with_objects):
            panels[1].plot(RECALL, curves[0, :, i], "-" if i < 10 else "--", label=str(k))  # colours repeat after ten
        panels[1].set_title("each class at IoU 0.50")
    for panel in panels:
        panel.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
        panel.grid(alpha=0.3)
        if panel.lines:
            panel.legend(loc="best", fontsize=9)
    if several:
        rows = [metrics.classes[k] for k in with_objects]
        name_legend(panels[1].get_legend(), [f"{names.legible(row.name)}   AP50 {row.AP50:.3f}" for row in rows])
    save_figure(figure, path)


def name_legend(legend: Legend, texts: list[str]) -> None:
    """Writes texts into a legend as they are: ``$`` is no markup, and a leading ``_`` hides nothing."""
    for entry, text in zip(legend.get_texts(), texts, strict=True):
        entry.set(parse_math=False, usetex=False, family="DejaVu Sans", text=text)


def training_curves(rows: list[dict], path: str | os.PathLike) -> None:
    """Plots loss, loss terms, AP, class error, learning rate and gradient norm over steps.

    Args:
      rows: rows of ``metrics.jsonl``; a value that is missing, null or not finite leaves a gap.
      path: the file to write.
    """
    rows = [with_scores(row) for row in rows]
    figure = Figure(figsize=(15, 8))
    # Training waits for this plot: layout="constrained" would take three times as long.
    figure.subplots_adjust(0.05, 0.07, 0.985, 0.95, wspace=0.18, hspace=0.15)
    panels = figure.subplots(2, 3, sharex=True)
    for panel, (title, keys) in zip(panels.flat, PANELS.items(), strict=True):
        for key in keys:
            points = np.array([(row["step"], row[key]) for row in rows if _is_number(row.get(key))], float)
            if len(points):
                style = {"color": f"C{len(panel.get_legend_handles_labels()[1])}", "label": key}
                draw_curve(panel, *points.T, window=len(points) // 50 if key != "lr" else 1, **style)
        finish_panel(panel, title, title in LOGARITHMIC)
        if len(keys) > 1 and panel.lines:
            panel.legend(fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel("step")
    save_figure(figure, path)


def class_curves(rows: list[dict], path: str | os.PathLike) -> None:
    """Plots AP of each class over steps; of many classes, those that are best and worst in the end.

    Nothing is drawn of a single class, or before there are two evaluations.
    """
    checks = [row for row in rows if row.get("AP_per_class")]
    ranked = sorted(checks[-1]["AP_per_class"].items(), key=lambda item: -item[1]) if checks else []
    if len(checks) < 2 or len(ranked) < 2:
        return
    half = MOST_CURVES // 2
    chosen = ranked if len(ranked) <= MOST_CURVES else [*ranked[:half], *ranked[-half:]]
    figure = Figure(figsize=(9, 5), layout="constrained")
    panel = figure.subplots()
    marker = "o" if len(checks) < 30 else ""
    for i, (name, _) in enumerate(chosen):
        points = np.array([(row["step"], row["AP_per_class"].get(name, np.nan)) for row in checks], float)
        panel.plot(*points.T, "-" if i < 10 else "--", marker=marker, markersize=3, label=str(i))
    finish_panel(panel, "AP of each class" if len(chosen) == len(ranked) else "AP of the best and worst classes", False)
    panel.set(xlabel="step", ylim=(0, None))
    legend = panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    name_legend(legend, [f"{names.legible(name)}   {score:.3f}" for name, score in chosen])
    save_figure(figure, path)


def with_scores(row: dict) -> dict:
    """A row of the log with the AP, AP50 and AP75 of an evaluation under their names, as far as there are any."""
    numbers = row.get("coco_eval_bbox")
    numbers = numbers if isinstance(numbers, list | tuple) else ()
    known = {name: n for name, n in zip(("AP", "AP50", "AP75"), numbers, strict=False) if _is_number(n) and n >= 0}
    return row | known  # -1: there is nothing to score


def _is_number(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def running_mean(where: np.ndarray, values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """The centred mean over so many points, and where it is; the points themselves for a window below 2."""
    if window < 2 or window > len(values):
        return where, values
    means = np.convolve(values, np.full(window, 1 / window), mode="valid")
    return where[window // 2 :][: len(means)], means


def draw_curve(panel: Axes, where: np.ndarray, values: np.ndarray, window: int, **style: str) -> None:
    """One curve; a long noisy one is pale, with its running mean over ``window`` points on top."""
    if window < 2:
        panel.plot(where, values, marker="o" if len(values) < 30 else "", markersize=3, **style)
        return
    panel.plot(where, values, color=style["color"], alpha=0.25, linewidth=0.8)
    panel.plot(*running_mean(where, values, window), **style)


class PlainFormatter(LogFormatter):
    """Labels of a logarithmic axis as plain numbers: 20, and not 2 x 10^1."""

    def __call__(self, value: float, place: int | None = None) -> str:
        return f"{value:g}" if super().__call__(value, place) else ""


def finish_panel(panel: Axes, title: str, logarithmic: bool) -> None:
    """Title, grid, and a logarithmic axis where all values are above 0."""
    panel.set_title(title, fontsize=11)
    panel.grid(alpha=0.3)
    if not panel.lines:
        _write_note(panel, "no values")
    elif logarithmic and all((np.asarray(line.get_ydata()) > 0).all() for line in panel.lines):
        panel.set_yscale("log")
        for formatter in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
            formatter(PlainFormatter(minor_thresholds=(2, 0.5)))


def _write_note(panel: Axes, text: str) -> None:
    panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", color="grey")


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes the picture whole."""
    with files.replacing(path) as sibling:
        figure.savefig(sibling, dpi=100)
