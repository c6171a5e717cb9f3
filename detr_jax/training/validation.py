"""Evaluation while training: COCO's numbers and the loss on the validation split, and pictures of a few images."""

import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from detr_jax import drawing
from detr_jax.datasets.split import Split
from detr_jax.evaluation import coco_eval
from detr_jax.evaluation.class_table import average_precisions
from detr_jax.images.decoding import Limits, decode
from detr_jax.inference.detector import make_detector
from detr_jax.models.network import Arrays
from detr_jax.structures import Detections
from detr_jax.training.step import Recipe, TrainState
from detr_jax.training.validation_loss import LossSums, name_losses, sum_losses

TIMED = 5  # batches from which the time of an evaluation is estimated
SCORING = 2.0  # seconds, roughly, for scores and pictures
SURE = 0.5  # score from which a detection is drawn; where none reaches it, the best three are drawn


class _Found(NamedTuple):
    """What the detector finds in a split."""

    results: list[dict]  # in COCO's format
    shown: dict[int, Detections]  # of the images that are drawn
    losses: list[LossSums]
    best_score: float  # mean over images
    broken: int  # images that cannot be decoded


class Validation:
    """Evaluates and draws.

    Raises UserError when not even the annotations themselves, scored as predictions, reach AP 1.0.

    Attributes:
      notes: what limits the score without being an error.
    """

    def __init__(self, recipe: Recipe, split: Split, workdir: Path):
        config = recipe.config
        self._recipe, self._split, self._workdir = recipe, split, workdir
        self._batch_size = config.train.batch_size
        self._limits = Limits(*config.data.image_limits)
        self._ground_truth = split.ground_truth()
        self.notes = coco_eval.check_ground_truth(self._ground_truth)
        measure = partial(sum_losses, recipe=recipe)
        self._detector = make_detector(
            recipe.network, {}, recipe.categories, config.model, config.data, recipe.mesh, measure
        )
        shown = min(config.train.samples, len(split))
        self._shown = {int(row) for row in np.linspace(0, len(split) - 1, shown)}

    def __call__(self, state: TrainState, step: int, poll: Callable[[], object] = lambda: None) -> dict:
        """Scores the split with this state, on every host; the first one writes ``eval/<step>`` and ``samples``.

        ``poll`` is called after each image; what it raises breaks the evaluation off. Returns a row for the log. Images
        that cannot be decoded count as images without detections; the row has their number, if there are any. Where
        there is a moving average, it is what is scored; the row has the numbers of the weights themselves as well.
        """
        plain = self._detect({**state.params, **state.frozen}, poll) if state.average else None
        found = self._detect(state.arrays, poll)
        metrics = coco_eval.evaluate(self._ground_truth, found.results)
        if jax.process_index() == 0:
            coco_eval.write_evaluation(metrics, found.results, self._workdir / "eval" / str(step))
            if found.shown:
                drawing.save(self._draw(found.shown), self._workdir / "samples" / f"step_{step:08d}.png")
        row = {"step": step, "coco_eval_bbox": metrics.numbers, "AP_per_class": average_precisions(metrics.classes)}
        if plain:
            row["coco_eval_bbox_plain"] = coco_eval.evaluate(self._ground_truth, plain.results).numbers
        row |= name_losses(found.losses, self._recipe) | {"best_score": found.best_score}
        return row | ({"broken_validation_images": found.broken} if found.broken else {})

    def time(self, state: TrainState) -> float:
        """About how many seconds an evaluation takes when it is compiled, from a few batches."""
        found = self._detector.with_arrays(state.arrays).over(self._split, self._batch_size)
        times = [time.monotonic() for _ in itertools.islice(found, TIMED * self._batch_size)]
        found.close()
        gaps = np.sort(np.diff(times))[:-1]  # the longest may hold a compilation
        passes = 2 if state.average else 1
        return passes * float(gaps.sum()) / max(len(gaps), 1) * len(self._split) + SCORING

    def _detect(self, arrays: Arrays, poll: Callable[[], object]) -> _Found:
        """Runs the detector over the split."""
        results, shown, best, losses = [], {}, [], []
        detector = self._detector.with_arrays(arrays)
        for row, detections in detector.over(self._split, self._batch_size, on_measured=losses.append):
            poll()
            results += detections.to_coco(self._split.image_ids[row])
            if len(detections):
                best.append(float(detections.scores[0]))
                if row in self._shown:
                    shown[row] = detections
        return _Found(results, shown, losses, float(np.mean(best or [0.0])), len(self._split) - len(best))

    def _draw(self, found: dict[int, Detections]) -> drawing.Picture:
        """For each image the annotations, and beside them the detections."""
        cells = []
        for row, detections in sorted(found.items()):
            record = self._split[row]
            image = decode(record.image, tuple(self._split.sizes[row].tolist()), limits=self._limits)
            names = [self._split.categories.names[label] for label in record.labels]
            cells.append(drawing.draw_boxes(image, record.boxes_xyxy_pixels, names, record.labels.tolist()))
            sure = detections.above(SURE)
            cells.append(np.asarray((sure if len(sure) else detections.best(3)).draw(image)))
        return drawing.grid(cells, columns=4)
