"""Detections in original pixels against transformers' post-processing, on the sizes and photos of coco128."""

from types import SimpleNamespace

import jax
import numpy as np
import peer
import torch
from PIL import Image
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from detr_jax.batches import augmentation
from detr_jax.config import DataConfig
from detr_jax.datasets.coco import categories, read_annotations
from detr_jax.images.decoding import decode
from detr_jax.inference import postprocess
from detr_jax.structures import Pixels


def theirs(processor, logits, boxes, sizes) -> list[dict]:
    outputs = SimpleNamespace(logits=torch.tensor(logits), pred_boxes=torch.tensor(boxes))
    return processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=torch.tensor(sizes))


def check(found, wanted: dict, sides: tuple[int, int], differences) -> None:
    """Theirs come in the order of the queries, ours best first: the same stable order is given to theirs."""
    order = np.argsort(-wanted["scores"].numpy(), kind="stable")
    scores, labels, boxes = (wanted[key].numpy()[order] for key in ("scores", "labels", "boxes"))
    differences("score", peer.largest(found.scores, scores))
    differences("box (pixels)", peer.largest(found.boxes_xyxy, boxes))
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_allclose(found.boxes_xyxy, boxes, atol=1e-4 * max(1, max(sides) / 640))
    rows = found.to_coco(7)
    assert [row["category_id"] for row in rows] == [found.categories.ids[label] for label in labels]
    wanted_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    np.testing.assert_allclose([row["bbox"] for row in rows], wanted_xywh, atol=2e-4 * max(1, max(sides) / 640))


def images_of(real_data, count=20):
    annotations = read_annotations(real_data / "coco128" / "annotations" / "instances_train2017.json")
    return annotations["images"][:count], categories(annotations["categories"])


def test_random_predictions(real_data, differences):
    images, classes = images_of(real_data)
    sizes = [(image["height"], image["width"]) for image in images]
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((len(images), 100, len(classes.ids) + 1))).astype(np.float32)
    boxes = (1 / (1 + np.exp(-rng.standard_normal((len(images), 100, 4))))).astype(np.float32)
    wanted = theirs(DetrImageProcessorPil(), logits, boxes, sizes)
    scores, labels, boxes_xyxy = jax.jit(postprocess.top_class)(logits, boxes)
    for row, size in enumerate(sizes):
        found = postprocess.make_detections(scores[row], labels[row], boxes_xyxy[row], size, classes)
        check(found, wanted[row], size, differences)


def test_from_the_file_to_the_detections(real_data, differences):
    """The whole way on both sides: decoding, resizing, the network, post-processing; query by query."""
    images, classes = images_of(real_data)
    settings = augmentation.evaluation_settings(DataConfig(scales=(128,)))
    processor = DetrImageProcessorPil(size={"shortest_edge": 128, "longest_edge": 1333})
    built = peer.build(seed=30, **peer.NARROW | {"num_classes": len(classes.ids)})
    network = jax.jit(built.network.apply)
    for image in images:
        (path,) = (real_data / "coco128").rglob(image["file_name"])
        size = image["height"], image["width"]
        inputs = processor(Image.open(path).convert("RGB"), return_tensors="pt")
        with torch.no_grad():
            outputs = built.model(**inputs)
        wanted = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[size])[0]

        view = augmentation.views(np.array([size]), np.zeros((1, augmentation.DRAWS)), settings).take(0)
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
        pixels, _, _ = augmentation.apply(decode(path.read_bytes(), size), *none, view)
        canvas = np.zeros((1, 256, 384, 3), np.uint8)
        canvas[0, : pixels.shape[0], : pixels.shape[1]] = pixels
        predictions = network(built.arrays, Pixels(canvas, np.array([pixels.shape[:2]], np.int32)))
        scores, labels, boxes_xyxy = postprocess.top_class(predictions.logits[-1], predictions.boxes[-1])
        differences("score", peer.largest(scores[0], wanted["scores"]))
        np.testing.assert_allclose(scores[0], wanted["scores"], atol=1e-4)
        np.testing.assert_array_equal(labels[0], wanted["labels"])
        found = np.asarray(boxes_xyxy[0]) * np.array([size[1], size[0], size[1], size[0]])
        differences("box (pixels)", peer.largest(found, wanted["boxes"]))
        np.testing.assert_allclose(found, wanted["boxes"], atol=1e-5 * max(size))
