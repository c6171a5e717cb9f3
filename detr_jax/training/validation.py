"""Evaluation while training: COCO's numbers on the validation split, and pictures of a few of its images."""

from collections.abc import Callable
from pathlib import Path

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
from detr_jax.training.step import Recipe

SURE = 0.5  # score from which a detection is drawn; where none reaches it, the best three are drawn


class Validation:
    """Evaluates and draws.

    Raises UserError when not even the annotations themselves, scored as predictions, reach AP 1.0.

    Attributes:
      notes: what limits the score without being an error.
    """

    def __init__(self, recipe: Recipe, split: Split, workdir: Path):
        config = recipe.config
        self._split, self._workdir = split, workdir
        self._batch_size = config.train.batch_size
        self._limits = Limits(*config.data.image_limits)
        self._ground_truth = split.ground_truth()
        self.notes = coco_eval.check_ground_truth(self._ground_truth)
        self._detector = make_detector(
            recipe.network, {}, recipe.categories, config.model, config.data, mesh=recipe.mesh
        )
        shown = min(config.train.samples, len(split))
        self._shown = {int(row) for row in np.linspace(0, len(split) - 1, shown)}

    def __call__(self, arrays: Arrays, step: int, poll: Callable[[], object] = lambda: None) -> dict:
        """Scores the split with these arrays, on every host; the first one writes ``eval/<step>`` and ``samples``.

        ``poll`` is called after each image; what it raises breaks the evaluation off. Returns a row for the log. Images
        that cannot be decoded count as images without detections; the row has their number, if there are any.
        """
        results, found, broken = [], {}, 0
        for row, detections in self._detector.with_arrays(arrays).over(self._split, self._batch_size):
            poll()
            results += detections.to_coco(self._split.image_ids[row])
            broken += not len(detections)
            if row in self._shown and len(detections):
                found[row] = detections
        metrics = coco_eval.evaluate(self._ground_truth, results)
        if jax.process_index() == 0:
            coco_eval.write_evaluation(metrics, results, self._workdir / "eval" / str(step))
            if found:
                drawing.save(self._draw(found), self._workdir / "samples" / f"step_{step:08d}.png")
        row = {"step": step, "coco_eval_bbox": metrics.numbers, "AP_per_class": average_precisions(metrics.classes)}
        return row | ({"broken_validation_images": broken} if broken else {})

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
