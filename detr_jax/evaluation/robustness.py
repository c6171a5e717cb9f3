"""How AP falls when images are corrupted: a table, its files and its curves."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure as Picture

from detr_jax import files
from detr_jax.evaluation.coco_eval import CocoMetrics
from detr_jax.evaluation.plots import save_figure
from detr_jax.images.corruptions import KINDS, RGB, SEVERITIES, Corruption


class Loss(NamedTuple):
    """AP under one corruption."""

    kind: str
    severity: int
    AP: float
    AP50: float
    AP_small: float
    AP_medium: float
    AP_large: float
    relative_loss: float  # share of the clean AP that is lost; 0 where the clean AP is 0


class Robustness(NamedTuple):
    """AP of clean images, and under each corruption."""

    clean: CocoMetrics
    losses: list[Loss]

    def add(self, corruption: Corruption, metrics: CocoMetrics) -> "Robustness":
        """With one corruption more."""
        AP = self.clean.AP
        lost = 1 - metrics.AP / AP if AP > 0 else 0.0
        sizes = metrics.AP_small, metrics.AP_medium, metrics.AP_large
        return self._replace(losses=[*self.losses, Loss(*corruption, metrics.AP, metrics.AP50, *sizes, lost)])

    @property
    def mean_AP(self) -> float:
        """Mean of the kinds, of each the mean of its severities: mPC of Michaelis et al."""
        return float(np.mean([np.mean([row.AP for row in self.of_kind(kind)]) for kind in self.kinds]))

    @property
    def kinds(self) -> list[str]:
        """In their order."""
        return list(dict.fromkeys(row.kind for row in self.losses))

    def of_kind(self, kind: str) -> list[Loss]:
        """The rows of one kind, by severity."""
        return [row for row in self.losses if row.kind == kind]


def format_table(found: Robustness) -> str:
    """AP of each kind by severity, its mean, and the share of the clean AP that is lost."""
    severities = sorted({row.severity for row in found.losses})
    head = f"{'AP, by severity':18}" + "".join(f"{severity:8}" for severity in severities) + "    mean    loss"
    lines = [head, f"{'clean':18}" + " " * 8 * len(severities) + f"{found.clean.AP:8.3f}"]
    for kind in found.kinds:
        rows = found.of_kind(kind)
        by_severity = {row.severity: f"{row.AP:8.3f}" for row in rows}
        values = "".join(by_severity.get(severity, " " * 8) for severity in severities)
        mean, lost = np.mean([row.AP for row in rows]), np.mean([row.relative_loss for row in rows])
        lines.append(f"{KINDS[kind].meaning:18}{values}{mean:8.3f}{lost:8.0%}")
    lost = 1 - found.mean_AP / found.clean.AP if found.clean.AP > 0 else 0.0
    lines.append(f"{'mean':18}" + " " * 8 * len(severities) + f"{found.mean_AP:8.3f}{lost:8.0%}")
    return "\n".join(lines)


def write_robustness(found: Robustness, folder: Path) -> None:
    """Writes robustness.json, robustness.csv and robustness.png into ``folder``, each file whole."""
    record = {
        "clean": {name: getattr(found.clean, name) for name in Loss._fields[2:-1]},
        "mean_AP": found.mean_AP,
        "relative_AP": found.mean_AP / found.clean.AP if found.clean.AP > 0 else None,
        "corruptions": [row._asdict() for row in found.losses],
        "strengths": {kind: KINDS[kind].strengths for kind in found.kinds},
    }
    with files.replacing(folder / "robustness.json") as path:
        path.write_text(json.dumps(record, indent=1), encoding="utf-8")
    files.write_csv(folder / "robustness.csv", [Loss._fields, *found.losses])
    save_figure(draw_losses(found), folder / "robustness.png")


def draw_losses(found: Robustness) -> Picture:
    """AP over severity, a curve for each kind."""
    figure = Picture(figsize=(8, 5), layout="constrained")
    panel = figure.subplots()
    for number, kind in enumerate(found.kinds):
        rows = found.of_kind(kind)
        points = [(0, found.clean.AP), *((row.severity, row.AP) for row in rows)]
        panel.plot(*zip(*points, strict=True), "osD^v<>p"[number % 8] + "-", label=KINDS[kind].meaning)
    panel.axhline(found.clean.AP, color="grey", ls="--", lw=1)
    panel.set_xticks([0, *SEVERITIES], ["clean", *map(str, SEVERITIES)])
    panel.set(xlabel="severity", ylabel="AP", ylim=(0, max(found.clean.AP, 0.05) * 1.08))
    panel.set_title(f"clean AP {found.clean.AP:.3f}, mean under corruption {found.mean_AP:.3f}")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def draw_examples(image: RGB, image_id: int, corruptions: list[Corruption]) -> Picture:
    """One image under each corruption, a row for each kind."""
    kinds = sorted({one.kind for one in corruptions}, key=list(KINDS).index)
    severities = sorted({one.severity for one in corruptions})
    height = min(2.2 * image.shape[0] / image.shape[1], 4.0)
    figure = Picture(figsize=(2.2 * (1 + len(severities)), (height + 0.12) * len(kinds) + 0.3), layout="constrained")
    panels = figure.subplots(len(kinds), 1 + len(severities), squeeze=False)
    for row, kind in zip(panels, kinds, strict=True):
        shown = [image, *(Corruption(kind, severity)(image, image_id) for severity in severities)]
        for panel, pixels in zip(row, shown, strict=True):
            panel.imshow(pixels)
            panel.set(xticks=[], yticks=[])
        row[0].set_ylabel(KINDS[kind].meaning, fontsize=9)
    for panel, title in zip(panels[0], ["clean", *(f"severity {severity}" for severity in severities)], strict=True):
        panel.set_title(title, fontsize=9)
    return figure
