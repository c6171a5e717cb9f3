"""Everything that ``coco_eval.evaluate`` returns against pycocotools run directly, on sets made to be awkward."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr_jax.evaluation import coco_eval

HEIGHT, WIDTH = 120, 160


def box(rng):
    """On a grid of 4 pixels, so that overlaps are often equal and exactly at a threshold."""
    return (4.0 * np.concatenate([rng.integers(0, 20, 2), rng.integers(1, 13, 2)])).tolist()


def mask(xywh):
    x, y, width, height = map(int, xywh)
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    pixels[y : y + height, x : x + width] = 1
    return mask_api.encode(pixels)


def awkward(seed, images=12):
    """Ids in no order, empty images, crowds, boxes more than once, areas of every size and at the limits, few scores.

    Annotation ids start at 1 and do not repeat: pycocotools itself needs that.
    """
    rng = np.random.default_rng(seed)
    image_ids = (rng.choice(2**40, images, replace=False) - 2**20).tolist()
    class_ids = rng.choice(5000, 4, replace=False).tolist()
    annotations, results = [], []
    for image_id in image_ids:
        for _ in range(rng.choice([0, 1, 4, 30])):
            shape = annotations[-1]["bbox"] if annotations and rng.random() < 0.3 else box(rng)
            area = float(
                rng.choice([shape[2] * shape[3], 32.0**2, 96.0**2, 1e11, 20000.0], p=[0.6, 0.1, 0.1, 0.1, 0.1])
            )
            class_id, crowd = int(rng.choice(class_ids[:3])), int(rng.random() < 0.15)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": class_id, "bbox": shape, "area": area,
                 "iscrowd": crowd, "ignore": int(rng.random() < 0.1), "segmentation": mask(shape)}
            )  # fmt: skip
            for _ in range(rng.choice([0, 1, 2, 60], p=[0.2, 0.4, 0.35, 0.05])):
                guess = class_id if rng.random() < 0.8 else int(rng.choice(class_ids))
                shape = np.abs(shape + 4.0 * rng.integers(-1, 2, 4) * (rng.random(4) < 0.4)).tolist()
                results.append(
                    {"image_id": image_id, "category_id": guess, "bbox": shape, "score": rng.integers(9) / 8}
                )
    rng.shuffle(results)
    sizes = [{"id": image_id, "height": HEIGHT, "width": WIDTH} for image_id in image_ids]
    classes = [{"id": class_id, "name": f"class {class_id}"} for class_id in class_ids]
    return {"info": {}, "images": sizes, "annotations": annotations, "categories": classes}, results


def directly(truth, results, iou_type):
    truth, results = copy.deepcopy((truth, results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(results), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def overlaps_at_half(evaluator):
    """IoU of each detection with the object that it matches at IoU 0.5."""
    for image in evaluator.evalImgs:
        if image is not None and image["aRng"] == evaluator.params.areaRng[0]:
            key = image["image_id"], image["category_id"]
            columns = evaluator.cocoGt.getAnnIds([key[0]], [key[1]])
            for d, matched in enumerate(image["dtMatches"][0]):
                if matched and not image["dtIgnore"][0, d]:
                    yield evaluator.ious[key][d, columns.index(matched)]


def mean(values):
    return values[values > -1].mean() if (values > -1).any() else -1.0


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_every_number_is_pycocotools(seed, iou_type):
    truth, results = awkward(seed)
    if iou_type == "segm":
        results = [{**row, "segmentation": mask(row["bbox"])} for row in results]
        for row in results:
            del row["bbox"]  # with it, pycocotools would take the area from the box
    metrics = coco_eval.evaluate(truth, results, iou_type=iou_type)
    expected = directly(truth, results, iou_type)
    precision, recall = expected.eval["precision"][:, :, :, 0, -1], expected.eval["recall"][:, :, 0, -1]
    np.testing.assert_allclose(metrics.numbers, expected.stats, rtol=0, atol=1e-12)
    np.testing.assert_allclose(metrics.precision, precision, rtol=0, atol=1e-12)
    assert metrics.mean_iou == pytest.approx(np.mean(list(overlaps_at_half(expected))), abs=1e-12)
    assert [row.id for row in metrics.classes] == sorted(category["id"] for category in truth["categories"])
    for k, row in enumerate(metrics.classes):
        of_class = [mean(precision[:, :, k]), mean(precision[0, :, k]), mean(precision[5, :, k]), mean(recall[:, k])]
        np.testing.assert_allclose([row.AP, row.AP50, row.AP75, row.AR100], of_class, rtol=0, atol=1e-12)
        real = [a["image_id"] for a in truth["annotations"] if a["category_id"] == row.id and not a["iscrowd"]]
        assert (row.objects, row.images) == (len(real), len(set(real)))


def test_only_the_best_hundred_of_a_class_in_an_image_count():
    truth, _ = awkward(0)
    wanted = {**truth["annotations"][0], "iscrowd": 0, "area": 500.0}
    truth["annotations"] = [wanted]
    row = {"image_id": wanted["image_id"], "category_id": wanted["category_id"], "score": 0.5}
    found, miss = {**row, "bbox": wanted["bbox"]}, {**row, "bbox": [0.0, 0.0, 1.0, 1.0]}
    for misses, precision in ((99, 0.01), (100, 0.0)):
        results = [miss] * misses + [found]  # of equal scores the first ones are best
        numbers = coco_eval.evaluate(truth, results).numbers
        np.testing.assert_allclose(numbers, directly(truth, results, "bbox").stats, rtol=0, atol=1e-12)
        np.testing.assert_allclose(numbers[0], precision)


def test_of_two_objects_equally_near_the_last_one_is_taken():
    truth, _ = awkward(0)
    ids = {key: truth["annotations"][0][key] for key in ("image_id", "category_id")}
    left, right = [0.0, 0.0, 40.0, 40.0], [8.0, 0.0, 40.0, 40.0]
    results = [{**ids, "bbox": [4.0, 0.0, 40.0, 40.0], "score": 0.9}, {**ids, "bbox": right, "score": 0.8}]
    scored = []
    for shapes in ([left, right], [right, left]):
        objects = [{**ids, "id": n, "bbox": shape, "area": 1600.0, "iscrowd": 0} for n, shape in enumerate(shapes, 1)]
        truth["annotations"] = objects
        scored.append(coco_eval.evaluate(truth, results).AP)
        np.testing.assert_allclose(scored[-1], directly(truth, results, "bbox").stats[0], rtol=0, atol=1e-12)
    assert scored[0] < scored[1]
