"""Random ground truth and results with every kind of error in them: what the tests of the error analysis share."""

import numpy as np

from detr_jax.evaluation import coco_eval
from detr_jax.evaluation.pairing import Pairing, pair

IDS = (3, 7, 9, 12, 20, 31)


def random_set(seed: int, classes: int = 4, images: int = 60, crowds: bool = False) -> tuple[dict, list[dict]]:
    """A COCO dictionary and results: objects found well, badly, twice, as another class, not at all; and nothing."""
    rng, annotations, results = np.random.default_rng(seed), [], []

    def box() -> np.ndarray:
        size = rng.uniform(8, 120, 2)
        return np.concatenate([rng.uniform(0, [320 - size[0], 240 - size[1]]), size])

    def detect(image_id: int, category_id: int, values: np.ndarray, score: float) -> None:
        values = [float(value) for value in values]
        results.append({"image_id": image_id, "category_id": category_id, "bbox": values, "score": score})

    for image_id in range(1, images + 1):
        for _ in range(rng.integers(0, 5)):
            values, category_id = box(), int(rng.choice(IDS[:classes]))
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category_id}
            annotation |= {"bbox": values.tolist(), "area": float(values[2] * values[3])}
            annotations.append(annotation | {"iscrowd": int(crowds and rng.random() < 0.15)})
            for _ in range(rng.integers(0, 3)):
                noise = rng.normal(0, rng.choice([0.02, 0.1, 0.25, 0.5]), 4)
                moved = np.concatenate([values[:2] + noise[:2] * values[2:], values[2:] * np.exp(noise[2:])])
                named = category_id if rng.random() < 0.8 else int(rng.choice(IDS[:classes]))
                detect(image_id, named, moved, float(rng.random()))
        for _ in range(rng.integers(0, 2)):
            detect(image_id, int(rng.choice(IDS[:classes])), box(), float(0.6 * rng.random()))
    sizes = [{"id": i, "width": 320, "height": 240, "file_name": f"{i}.jpg"} for i in range(1, images + 1)]
    categories = [{"id": i, "name": f"class {i}"} for i in IDS[:classes]]
    return {"images": sizes, "categories": categories, "annotations": annotations}, results


def pair_up(ground_truth: dict, results: list[dict]) -> tuple[Pairing, int]:
    """The pairing, and the number of classes."""
    truth = coco_eval.read_truth(ground_truth)
    found = coco_eval.read_detections(truth, results, "bbox")
    return pair(truth.objects, truth.crowds > 0, *found, len(truth.images)), len(truth.classes)
