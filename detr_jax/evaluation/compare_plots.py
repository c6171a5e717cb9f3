"""Pictures of a comparison: AP with intervals, classes, costs of the error types."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detr_jax import names
from detr_jax.evaluation.bootstrap import NUMBERS
from detr_jax.evaluation.compare import Comparison, Difference, Measured
from detr_jax.evaluation.plots import name_legend, save_figure
from detr_jax.evaluation.published import Published
from detr_jax.evaluation.tide import MEANINGS

MOST_ROWS = 40  # classes that a panel shows, those with the largest differences
LABELS = ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")


def draw_comparison(comparison: Comparison, rows: list[Published], folder: Path) -> list[str]:
    """Writes ap.png, error_types.png and, of several detectors, classes.png; the names of the files."""
    figures = {"ap.png": draw_ap(comparison, rows), "error_types.png": draw_error_types(comparison.detectors)}
    first = comparison.detectors[0].name
    against = [difference for difference in comparison.differences if difference.minus == first]
    if against:
        figures["classes.png"] = draw_classes(comparison, against)
    for name, figure in figures.items():
        save_figure(figure, folder / name)
    return list(figures)


def draw_ap(comparison: Comparison, rows: list[Published]) -> Figure:
    """Bars of the measured detectors with their intervals; published figures as grey marks in a panel of their own."""
    figure = Figure(figsize=(13 if rows else 9, 5), layout="constrained")
    panels = figure.subplots(1, 2 if rows else 1, squeeze=False, width_ratios=(2, 1) if rows else (1,))[0]
    panel: Axes = panels[0]
    detectors = comparison.detectors
    width = 0.8 / len(detectors)
    for i, detector in enumerate(detectors):
        known = [column for column, key in enumerate(NUMBERS) if key in detector.intervals]
        values = np.array([detector.intervals[NUMBERS[column]] for column in known]).reshape(-1, 3) * 100
        reach = np.nan_to_num(np.abs(values[:, 1:] - values[:, :1])).T
        places = np.array(known) + (i - (len(detectors) - 1) / 2) * width
        panel.bar(places, values[:, 0], 0.92 * width, yerr=reach, capsize=3, color=f"C{i % 10}", label=str(i))
        if len(detectors) <= 4:
            for place, value, up in zip(places, values[:, 0], reach[1], strict=True):
                panel.text(place, value + up + 0.6, f"{value:.1f}", ha="center", fontsize=8)
    panel.set_xticks(range(len(NUMBERS)), LABELS)
    panel.set(ylabel="AP", title=f"measured on {len(comparison.bench.truth.images):,} images, with 95 % intervals")
    panel.grid(axis="y", alpha=0.3)
    name_legend(panel.legend(loc="upper left", fontsize=9), [names.legible(one.name) for one in detectors])
    panel.set_ylim(0, 1.18 * max(panel.get_ylim()[1], 1.0))
    if rows:
        _draw_published(panels[1], detectors, rows)
    return figure


def _draw_published(panel: Axes, detectors: list[Measured], rows: list[Published]) -> None:
    places = np.arange(len(rows))
    panel.plot([row.AP for row in rows], places, "D", color="grey", markerfacecolor="white")
    for i, detector in enumerate(detectors):
        panel.axvline(100 * detector.metrics.AP, color=f"C{i % 10}", linestyle="--", linewidth=1)
    labels = [f"{row.name}, {row.epochs} epochs" if row.epochs else row.name for row in rows]
    panel.set_yticks(places, labels, fontsize=8)
    panel.set(xlabel="AP on COCO 2017 val", title="published, not measured here\n(dashed: measured here)")
    panel.grid(axis="x", alpha=0.3)


def draw_classes(comparison: Comparison, differences: list[Difference]) -> Figure:
    """AP of each class against the first detector, with intervals; grey where it may be chance."""
    counts = [sum(one.estimate != 0 for one in difference.classes) for difference in differences]
    height = min(max(counts), MOST_ROWS)
    figure = Figure(figsize=(5.5 * len(differences) + 1, max(0.24 * height + 1.6, 3)), layout="constrained")
    for panel, difference in zip(figure.subplots(1, len(differences), squeeze=False)[0], differences, strict=True):
        _draw_classes(panel, comparison.bench.truth.names, difference)
    figure.supxlabel("grey: may be chance; hollow: too few images for an interval", fontsize=9, color="grey")
    return figure


def _draw_classes(panel: Axes, class_names: list[str], difference: Difference) -> None:
    known = [
        k for k, interval in enumerate(difference.classes) if interval.estimate and not np.isnan(interval.estimate)
    ]
    known = sorted(known, key=lambda k: -abs(difference.classes[k].estimate))[:MOST_ROWS]
    known = sorted(known, key=lambda k: difference.classes[k].estimate)
    for row, k in enumerate(known):
        interval = difference.classes[k]
        color = {1: "C2", -1: "C3", 0: "C7"}[interval.sign]
        panel.plot([100 * interval.low, 100 * interval.high], [row, row], color=color, linewidth=1.5)
        filled = "white" if np.isnan(interval.low) else color
        panel.plot(100 * interval.estimate, row, "o", color=color, markerfacecolor=filled, markersize=4)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.set_yticks(
        range(len(known)), [names.legible(class_names[k]) for k in known], fontsize=8, parse_math=False,
        family="DejaVu Sans",
    )  # fmt: skip
    panel.set_ylim(-0.7, len(known) - 0.3)
    panel.grid(axis="x", alpha=0.3)
    panel.set_title(f"{names.legible(difference.name)} minus {names.legible(difference.minus)}", parse_math=False)
    panel.set_xlabel("AP of a class, with 95 % intervals")


def draw_error_types(detectors: list[Measured]) -> Figure:
    """What each type of error costs each detector."""
    figure = Figure(figsize=(10, 1.5 + 0.55 * len(MEANINGS) * max(1.0, 0.4 * len(detectors))), layout="constrained")
    panel = figure.subplots()
    width = 0.8 / len(detectors)
    for i, detector in enumerate(detectors):
        costs = [100 * detector.tide.costs[kind] for kind in MEANINGS]
        places = np.arange(len(costs)) + (i - (len(detectors) - 1) / 2) * width
        panel.barh(places, costs, 0.92 * width, color=f"C{i % 10}", label=str(i))
        for place, cost in zip(places, costs, strict=True):
            panel.text(cost, place, f" {cost:.1f}", va="center", fontsize=8)
    panel.set_yticks(range(len(MEANINGS)), [f"{kind}: {meaning}" for kind, meaning in MEANINGS.items()])
    panel.invert_yaxis()
    panel.set_xlabel("AP50 that would be gained without these errors")
    panel.set_xlim(0, 1.1 * max(panel.get_xlim()[1], 1.0))
    legend = panel.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9)
    name_legend(legend, [f"{names.legible(one.name)}   AP50 {100 * one.tide.AP50:.1f}" for one in detectors])
    return figure
