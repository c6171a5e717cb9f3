"""Looking at the validation split while training: COCO's numbers, and pictures of a few images."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from detr_jax.inference import detector
from detr_jax import drawing
from detr_jax.datasets.decode import decode
from detr_jax.datasets.split import Split
from detr_jax.evaluation import coco_eval
from detr_jax.models.network import Arrays, Network
from detr_jax.structures import Detections
from detr_jax.training import guard

SURE = 0.5  # score from which a detection is drawn; where there is none, the best three are drawn


class Validation:
    """Evaluates and draws.

    Raises UserError when not even the annotations themselves, scored as predictions, reach AP 1.0.

    Attributes:
      notes: what limits the score without being an error.
    """

    def __init__(self, config: dict, split: Split, network: Network, mesh: jax.sharding.Mesh, workdir: Path):
        self._split, self._mesh, self._workdir = split, mesh, workdir
        self._threads, self._hang_minutes = config["data"]["threads"], config["train"]["hang_minutes"]
        self._plan = detector.evaluation_plan(config, split, config["train"]["batch_size"], mesh)
        self._ground_truth = split.ground_truth()
        self.notes = coco_eval.check_ground_truth(self._ground_truth)
        self._detect = detector.detect_function(network, config["model"]["class_scores"], mesh)
        shown = min(config["train"]["samples"], len(split))
        self._shown = {int(row) for row in np.linspace(0, len(split) - 1, shown)}

    def __call__(self, arrays: Arrays, step: int, stop: Callable[[], bool]) -> coco_eval.CocoMetrics | None:
        """Scores the split with these arrays, on every host; the first writes ``eval/<step>`` and ``samples``.

        Returns None as soon as ``stop()`` says so.
        """
        results, pictures = [], {}
        for row, detections in detector.detect_split(
            self._detect, arrays, self._split, self._plan, self._split.categories, self._mesh, self._threads
        ):
            if stop():
                return None
            guard.expect_progress(self._hang_minutes)
            results += detections.to_coco(self._split.image_ids[row])
            if row in self._shown:
                pictures[row] = detections
        metrics = coco_eval.evaluate(self._ground_truth, results)
        if jax.process_index() == 0:
            coco_eval.write(metrics, results, self._workdir / "eval" / str(step))
            if pictures:
                drawing.save(self._drawn(pictures), self._workdir / "samples" / f"step_{step:08d}.png")
        return metrics

    def _drawn(self, pictures: dict[int, Detections]):
        """For each image the annotations, and beside them the detections."""
        cells = []
        for row, detections in sorted(pictures.items()):
            record = self._split[row]
            image = decode(record.image, tuple(self._split.sizes[row].tolist()))
            names = [self._split.categories.names[label] for label in record.labels]
            cells.append(drawing.draw_boxes(image, record.boxes_xyxy_pixels, names, record.labels.tolist()))
            sure = detections.above(SURE)
            cells.append(detector.draw(image, sure if len(sure.scores) else detections.best(3)))
        return drawing.grid(cells, columns=4)
