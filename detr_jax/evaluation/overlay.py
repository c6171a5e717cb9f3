"""The curves of several runs in one picture: a panel for each number, a colour for each run."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from detr_jax import names
from detr_jax.evaluation.curves import UNITS, RunComparison
from detr_jax.evaluation.plots import draw_curve, finish_panel, name_legend, save_figure

TITLES = {
    "loss": "loss",
    "AP": "box AP",
    "AP50": "box AP50",
    "test_loss": "loss on the validation split",
    "loss_ce": "class loss (loss_ce)",
    "loss_bbox": "box loss (loss_bbox)",
    "loss_giou": "generalised IoU loss (loss_giou)",
    "class_error": "class error (%)",
    "lr": "learning rate",
}
LAST = ("class_error", "lr")
MOST_PANELS, MOST_NAMES, COLUMNS = 12, 24, 3
EXACT = ("AP", "AP50", "lr")  # drawn as they are: they are no means of noisy steps
DASHES = ("-", "--", ":", "-.")  # colours repeat after ten runs


def draw_runs(found: RunComparison, path: Path) -> None:
    """Writes the picture; the best AP of each run has a star."""
    shown = _panels(found)
    rows = math.ceil(len(shown) / COLUMNS)
    figure = Figure(figsize=(15, 3.9 * rows + 0.4), layout="constrained")
    panels = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    styles = [{"color": f"C{i % 10}", "linestyle": DASHES[i // 10 % len(DASHES)]} for i in range(len(found.runs))]
    for panel, name in zip(panels, shown, strict=False):
        for run, summary, style in zip(found.runs, found.summaries, styles, strict=True):
            where, values = run.points(found.axis, name)
            if len(where):
                draw_curve(panel, where, values, 1 if name in EXACT else found.window(run, name), **style)
            if name == "AP" and summary.best_AP is not None:
                panel.plot(summary.best_AP_at, summary.best_AP, marker="*", markersize=11, color=style["color"])
        if name.startswith("AP") and len(found.runs) > 1 and found.common is not None:
            panel.axvline(found.common, color="grey", linewidth=0.8, linestyle=":")
        finish_panel(panel, TITLES.get(name, name), "loss" in name or name == "lr")
        panel.set_xlabel(found.axis if found.axis in ("step", "epoch") else UNITS[found.axis])
        panel.set_xlim(left=0)
        if name.startswith("AP"):
            panel.set_ylim(bottom=0)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    _draw_legend(figure, panels[len(shown) :], found, styles)
    save_figure(figure, path)


def _panels(found: RunComparison) -> list[str]:
    """The numbers that are drawn: the known ones, then other loss terms that most runs have."""
    logged = [name for run in found.runs for name in {name for row in run.rows for name in row}]
    others = {name for name in logged if "loss" in name and name not in TITLES}
    known = [name for name in TITLES if name in logged or name in ("loss", "AP")]
    terms = sorted(others, key=lambda name: (-logged.count(name), name))[: MOST_PANELS - len(known)]
    return [*(name for name in known if name not in LAST), *terms, *(name for name in known if name in LAST)]


def _draw_legend(figure: Figure, free: list[Axes], found: RunComparison, styles: list[dict]) -> None:
    """The names of the runs: in a cell of the grid that is free, or below all panels."""
    lines, texts = [], []
    for summary, style in list(zip(found.summaries, styles, strict=True))[:MOST_NAMES]:
        lines.append(Line2D([], [], linewidth=2.5, **style))
        score = "" if summary.best_AP is None else f"   best AP {summary.best_AP:.3f}"
        texts.append(names.legible(summary.name) + score)
    if len(styles) > MOST_NAMES:
        lines.append(Line2D([], [], alpha=0))
        texts.append(f"and {len(styles) - MOST_NAMES} more")
    look = {"fontsize": 8 if len(texts) > 12 else 10, "frameon": False}
    blank = ["run"] * len(texts)  # the names follow below: they are no markup
    if free:
        legend = free[-1].legend(lines, blank, loc="center", **look)
    else:
        legend = figure.legend(lines, blank, loc="outside lower center", ncols=COLUMNS, **look)
    name_legend(legend, texts)
