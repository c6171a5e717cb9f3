"""Images where two detectors differ, drawn beside the ground truth: one file an image, three panels."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from detr_jax import drawing, names
from detr_jax.errors import UserError
from detr_jax.evaluation.compare import Comparison, Difference, Measured
from detr_jax.images import decoding

MOST = 8  # images of each direction of a pair
SIDE = 480  # pixels of the longer side of a panel
BAND = 26  # pixels above a panel for its title
GAP = 6
GREEN, BLUE, RED, ORANGE = (0, 150, 60), (30, 100, 220), (215, 30, 30), (240, 140, 0)


class Panel(NamedTuple):
    """What is drawn on one copy of the image."""

    title: str
    boxes: Float[np.ndarray, "n 4"]  # xywh in pixels of the image
    texts: list[str]
    colors: list[tuple[int, int, int]]


def draw_differences(
    comparison: Comparison, difference: Difference, photos: Path, folder: Path
) -> tuple[int, list[str]]:
    """Draws the images where one of the pair makes fewer errors, and the reverse: how many, and what went wrong.

    Files are named ``NAME_better_than_OTHER/01_FILE.png``. An image that is missing or broken is named, not drawn.
    """
    drawn, failed = 0, []
    by_name = {detector.name: detector for detector in comparison.detectors}
    for side in (difference, difference.reversed()):
        below = folder / f"{_file_name(side.name)}_better_than_{_file_name(side.minus)}"
        for rank, image in enumerate(side.best_images(MOST), start=1):
            name = comparison.bench.file_names[image]
            try:
                pixels = decoding.to_pixels(_find(photos, name))
            except UserError as error:
                failed.append(str(error))
                continue
            panels = [_truth_panel(comparison, image)]
            panels += [_detector_panel(comparison, by_name[one], image) for one in (side.name, side.minus)]
            picture = draw_panels(pixels, panels)
            drawing.save(picture, below / f"{rank:02d}_{_file_name(Path(name).stem)}.png")
            drawn += 1
    return drawn, failed


def _find(photos: Path, name: str) -> Path:
    """Below the folder, with the folders of its name or without."""
    whole = photos / name
    return whole if whole.is_file() else photos / Path(name).name


def _file_name(text: str) -> str:
    return "".join(character if character.isalnum() or character in "-_." else "_" for character in text)[:60]


def _truth_panel(comparison: Comparison, image: int) -> Panel:
    truth = comparison.bench.truth
    rows = np.flatnonzero((truth.objects.images == image) & (truth.crowds == 0))
    texts = [truth.names[k] for k in truth.objects.labels[rows]]
    return Panel(f"ground truth: {len(rows)} objects", truth.objects.shapes[rows], texts, [GREEN] * len(rows))


def _detector_panel(comparison: Comparison, detector: Measured, image: int) -> Panel:
    """Correct detections blue, wrong ones red, missed objects orange."""
    truth, shown = comparison.bench.truth, detector.shown
    rows = np.flatnonzero(shown.images == image)
    objects = detector.objects
    missed = np.flatnonzero((objects.images == image) & ~detector.found)
    labels = truth.names
    texts = [f"{labels[shown.labels[row]]} {shown.scores[row]:.2f}" for row in rows]
    texts += [f"missed {labels[k]}" for k in objects.labels[missed]]
    colors = [BLUE if correct else RED for correct in shown.correct[rows]] + [ORANGE] * len(missed)
    title = f"{detector.name}: {detector.false_positives[image]} wrong, {detector.missed[image]} missed"
    return Panel(title, np.concatenate([shown.boxes[rows], objects.shapes[missed]]), texts, colors)


def draw_panels(pixels: UInt8[np.ndarray, "h w 3"], panels: list[Panel]) -> UInt8[np.ndarray, "H W 3"]:
    """The panels in a row, each under its title."""
    scale = SIDE / max(pixels.shape[:2])
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    small = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    step = max(width, SIDE // 2) + GAP
    sheet = Image.new("RGB", (step * len(panels) - GAP, height + BAND), "white")
    pen = ImageDraw.Draw(sheet)
    for number, panel in enumerate(panels):
        corners = panel.boxes.copy() * scale
        corners[:, 2:] += corners[:, :2]
        picture = Image.fromarray(drawing.draw_boxes(small, corners, panel.texts, panel.colors))
        sheet.paste(picture.resize((width, height)), (number * step, BAND))
        title = names.legible(panel.title)
        pen.text((number * step + 4, 4), title, fill="black", font=names.font_of(title, 15))
    return np.array(sheet)
