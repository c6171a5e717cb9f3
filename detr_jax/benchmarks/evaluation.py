"""COCO's numbers of a made-up validation set, beside pycocotools."""

import contextlib
import io
from collections.abc import Callable, Sequence

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr_jax.benchmarks import coco_like, timing
from detr_jax.datasets.coco import COCO_CATEGORIES
from detr_jax.evaluation import coco_eval


def make_results(images: int, detections: int, seed: int) -> tuple[dict, list[dict]]:
    """Ground truth with COCO's counts, and so many results for each image, some of which fit an object."""
    rng = np.random.default_rng(seed)
    ids, counts = COCO_CATEGORIES.ids, coco_like.draw_counts(images, rng)
    truth = {
        "images": [{"id": 1000 + 7 * k, "height": 480, "width": 640} for k in range(images)],
        "categories": COCO_CATEGORIES.to_rows(),
        "annotations": [],
    }
    results = []
    for image, count in zip(truth["images"], counts, strict=True):
        extent = np.exp(rng.uniform(np.log(8), np.log(300), (count + detections, 2)))
        boxes = np.concatenate([rng.uniform(0, [640, 480] - np.minimum(extent, 400)), extent], axis=1).round(2)
        classes = rng.choice(ids, count + detections)
        for box, category in zip(boxes[:count].tolist(), classes.tolist(), strict=False):
            crowd = int(rng.random() < 0.01)
            number = len(truth["annotations"]) + 1
            area = box[2] * box[3] * 0.7
            truth["annotations"].append(
                {"id": number, "image_id": image["id"], "category_id": category, "bbox": box, "area": area,
                 "iscrowd": crowd}
            )  # fmt: skip
        fits = rng.random(detections) < 0.4
        if count:  # a detection that fits is the box of an object, moved a little
            of = rng.integers(0, count, detections)
            moved = boxes[of] + rng.normal(0, 0.07, (detections, 4)) * np.tile(extent[of], 2)
            boxes[count:] = np.where(fits[:, None], moved, boxes[count:])
            classes[count:] = np.where(fits, classes[of], classes[count:])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], 1)
        rows = zip(boxes[count:].tolist(), classes[count:].tolist(), rng.random(detections).tolist(), strict=True)
        results += [{"image_id": image["id"], "category_id": c, "bbox": b, "score": s} for b, c, s in rows]
    return truth, results


def evaluate_with_pycocotools(truth: dict, results: list[dict]) -> np.ndarray:
    """COCO's twelve numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = truth
        ground_truth.createIndex()
        evaluator = COCOeval(ground_truth, ground_truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


def measure(images: int = 5000, detections: int = 100, rounds: int = 1, seed: int = 0) -> dict[str, object]:
    """Seconds of both, from lists of rows to the twelve numbers, and the largest difference between their numbers."""
    truth, results = make_results(images, detections, seed)
    found = {}

    def make_call(name: str, evaluate: Callable[[], Sequence[float]]) -> Callable[[], None]:
        def call() -> None:
            found[name] = np.asarray(evaluate())

        return call

    ways = {
        "detr_jax": make_call("detr_jax", lambda: coco_eval.evaluate(truth, results).numbers),
        "pycocotools": make_call("pycocotools", lambda: evaluate_with_pycocotools(truth, results)),
    }
    taken = timing.time_in_turns(ways, rounds, warm_up=0)
    return {
        "images": images,
        "ratio": taken["detr_jax"].median / taken["pycocotools"].median,
        "largest_difference": float(np.abs(found["detr_jax"] - found["pycocotools"]).max()),
        "seconds": [{"by": name, "took": str(value)} for name, value in taken.items()],
    }
