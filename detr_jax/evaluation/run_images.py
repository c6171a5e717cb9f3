"""The images of the validation split on which a detector does best and worst, drawn."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from detr_jax import files, names
from detr_jax.errors import UserError
from detr_jax.evaluation.errors import Analysis
from detr_jax.evaluation.run_data import StoredSplit
from detr_jax.evaluation.side_by_side import BLUE, GREEN, ORANGE, RED, Panel, draw_panels
from detr_jax.evaluation.suspects import count_mistakes
from detr_jax.evaluation.thumbnails import encode
from detr_jax.images import decoding
from detr_jax.images.decoding import Limits
from detr_jax.spelling import count

MOST = 6  # images of each kind
MOST_TEXTS = 20  # boxes of an image up to which each has its name
BAND = 8  # rows that are left of a white band
QUALITY = 85  # of the JPEG files
MEASURE = (
    "Images are ranked by their F1 score, 2 right / (2 right + wrong + missed): 1 is everything right. A detection "
    "counts from the score threshold of its class, and is right when it overlaps an object of its class by half (IoU "
    "0.5) that no better one has found."
)
LEGEND = (
    "Left the annotations in green; right the detections, correct in blue, wrong in red, and missed objects in orange."
)


class ImageScore(NamedTuple):
    """How well one image is understood, at the thresholds of the classes."""

    image: int  # rank
    right: int
    wrong: int
    missed: int

    @property
    def f1(self) -> float:
        """From 0 to 1."""
        return 2 * self.right / (2 * self.right + self.wrong + self.missed)


class DrawnImage(NamedTuple):
    """A picture of an image: annotations left, detections right."""

    kind: str  # "best" or "worst"
    file_name: str
    score: ImageScore
    picture: bytes  # JPEG

    @property
    def caption(self) -> str:
        """F1 and what it is made of."""
        one = self.score
        return f"F1 {one.f1:.2f}: {one.right} right, {one.wrong} wrong, {one.missed} missed"


def score_images(errors: Analysis) -> list[ImageScore]:
    """The images with objects or detections, the worst first: by F1, then by the number of errors."""
    images = len(errors.image_ids)
    hits = errors.shown & errors.pairing.correct
    right = np.bincount(errors.pairing.detections.images[hits], minlength=images)
    wrong, missed = count_mistakes(errors.pairing, errors.shown, errors.found, images)
    columns = (column.tolist() for column in (np.arange(images), right, wrong, missed))
    scores = [ImageScore(*row) for row in zip(*columns, strict=True)]
    scores = [one for one in scores if one.right + one.wrong + one.missed]
    return sorted(scores, key=lambda one: (one.f1, -one.wrong - one.missed, one.image))


def choose_images(scores: list[ImageScore], most: int = MOST) -> tuple[list[ImageScore], list[ImageScore]]:
    """The worst and the best, in the order in which they are to be drawn, without an image that is in both."""
    half = -(-len(scores) // 2)
    worst = [one for one in scores if one.f1 < 1][: min(most, half)]
    taken = {one.image for one in worst}
    best = sorted(scores, key=lambda one: (-one.f1, -one.right, one.image))
    return worst, [one for one in best if one.right and one.image not in taken][:most]


def draw_images(errors: Analysis, split: StoredSplit, limits: Limits) -> tuple[list[DrawnImage], list[str]]:
    """Pictures of the worst and best images, and sentences about those that could not be drawn."""
    worst, best = choose_images(score_images(errors))
    drawn, problems = [], []
    for kind, chosen in (("worst", worst), ("best", best)):
        for score in chosen:
            try:
                drawn.append(_draw(errors, split, score, kind, limits))
            except (ValueError, OSError, UserError) as error:
                problems.append(f"{names.single_line(errors.file_names[score.image])}: {error}")
    if not problems:
        return drawn, []
    said = f"{count(len(problems), 'image')} could not be drawn, the first because {problems[0]}."
    return drawn, [said]


def _draw(errors: Analysis, split: StoredSplit, score: ImageScore, kind: str, limits: Limits) -> DrawnImage:
    image_id = errors.image_ids[score.image]
    row = int(np.searchsorted(split.image_ids, image_id))
    height, width = split.sizes[row].tolist()
    pixels = decoding.decode(split[row].image, (height, width), limits=limits)
    panels = [_annotations(errors, score.image), _detections(errors, score)]
    picture = encode(draw_panels(pixels, panels), QUALITY)
    return DrawnImage(kind, errors.file_names[score.image], score, picture)


def _annotations(errors: Analysis, image: int) -> Panel:
    objects = errors.pairing.objects
    rows = np.flatnonzero(objects.images == image)
    texts = _few([errors.names[label] for label in objects.labels[rows]])
    return Panel(f"annotated: {count(len(rows), 'object')}", objects.shapes[rows], texts, [GREEN] * len(rows))


def _detections(errors: Analysis, score: ImageScore) -> Panel:
    pairing, labels = errors.pairing, errors.names
    objects, found = pairing.objects, pairing.detections
    rows = np.flatnonzero((found.images == score.image) & errors.shown)
    missed = np.flatnonzero((objects.images == score.image) & ~errors.found)
    texts = [f"{labels[found.labels[row]]} {pairing.scores[row]:.2f}" for row in rows]
    texts += [f"missed {labels[label]}" for label in objects.labels[missed]]
    colors = [BLUE if right else RED for right in pairing.correct[rows]] + [ORANGE] * len(missed)
    title = f"detected: {score.right} right, {score.wrong} wrong, {score.missed} missed"
    return Panel(title, np.concatenate([found.shapes[rows], objects.shapes[missed]]), _few(texts), colors)


def _few(texts: list[str]) -> list[str]:
    """The texts, unless they are so many that they would hide the image."""
    return texts if len(texts) <= MOST_TEXTS else [""] * len(texts)


def read_sample(path: Path | None) -> bytes | None:
    """The picture of validation images as a JPEG file, which is smaller; None where there is none."""
    try:
        with Image.open(path) as picture:
            return encode(cut_bands(np.asarray(picture.convert("RGB"))), QUALITY)
    except (OSError, ValueError, AttributeError):
        return None


def cut_bands(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture without what is wider than a gap of its white bands, in which nothing is drawn."""
    for axis in (0, 1):
        white = (pixels == 255).all(axis=(1 - axis, 2))
        since = np.arange(len(white)) - np.maximum.accumulate(np.where(white, -1, np.arange(len(white))))
        pixels = np.compress(~white | (since <= BAND), pixels, axis=axis)
    return pixels


def write_images(drawn: list[DrawnImage], folder: Path) -> list[Path]:
    """Writes the pictures as ``worst_1.jpg``, ``best_1.jpg``, ... and removes those of an earlier report."""
    paths, numbers = [], {"best": 0, "worst": 0}
    for one in drawn:
        numbers[one.kind] += 1
        paths.append(folder / f"{one.kind}_{numbers[one.kind]}.jpg")
        with files.replacing(paths[-1]) as sibling:
            sibling.write_bytes(one.picture)
    for kind in numbers:
        for old in folder.glob(f"{kind}_*.jpg"):
            if old not in paths:
                old.unlink()
    return paths
