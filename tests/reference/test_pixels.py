"""Pixels: evaluation against transformers' processor, training against the original's transforms written out here."""

import io

import numpy as np
import peer
import pytest
from PIL import Image
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil

from detr_jax.batches import augmentation
from detr_jax.config import DataConfig
from detr_jax.datasets import coco
from detr_jax.images.decoding import decode
from detr_jax.models.resnet import normalize

NO_BOXES = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)


def prepare_for_evaluation(image: np.ndarray, scale: int, max_size: int) -> np.ndarray:
    """What the model gets of an image in evaluation: its one view, normalised."""
    data = augmentation.evaluation_settings(DataConfig(scales=(scale,), max_size=max_size))
    view = augmentation.views(np.array([image.shape[:2]]), np.full((1, augmentation.DRAWS), 0.3), data).take(0)
    pixels, _, _ = augmentation.apply(image, *NO_BOXES, view)
    return np.asarray(normalize(pixels[None], np.array([pixels.shape[:2]]), np.float32))[0]


def test_the_two_cats(real_data, differences):
    image = (real_data / "cats" / "000000039769.png").read_bytes()
    ours = prepare_for_evaluation(decode(image), 800, 1333)
    assert ours.shape == (800, 1066, 3)
    np.testing.assert_allclose(ours[0, :3, 0], [0.2796, 0.3138, 0.3481], atol=5e-5)
    processor = DetrImageProcessorPil(size={"shortest_edge": 800, "longest_edge": 1333})
    theirs = processor(Image.open(io.BytesIO(image)), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    differences("pixel", peer.largest(ours, theirs))
    assert peer.largest(ours, theirs) <= 1e-6


@pytest.mark.parametrize("scale, max_size", [(800, 1333), (300, 1000)])
def test_photos(scale, max_size, real_data, differences):
    """The long side stays below its limit: there transformers no longer rounds as the original."""
    processor = DetrImageProcessorPil(size={"shortest_edge": scale, "longest_edge": max_size})
    for path in sorted((real_data / "coco128" / "images").rglob("*.jpg"))[:12]:
        ours = prepare_for_evaluation(decode(path.read_bytes()), scale, max_size)
        picture = Image.open(path).convert("RGB")
        theirs = processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        assert ours.shape == theirs.shape
        differences("pixel", peer.largest(ours, theirs))
        assert peer.largest(ours, theirs) <= 1e-6


# ---- the original's datasets/transforms.py, on PIL images and (x0, y0, x1, y1) boxes; draws are given ---------------


def original_size(width, height, size, max_size):
    """get_size_with_aspect_ratio: (height, width)."""
    if max_size is not None:
        short, long = float(min(width, height)), float(max(width, height))
        if long / short * size > max_size:
            size = int(round(max_size * short / long))
    if (width <= height and width == size) or (height <= width and height == size):
        return height, width
    if width < height:
        return int(size * height / width), size
    return size, int(size * width / height)


def original_resize(picture, boxes, size, max_size=None):
    height, width = original_size(*picture.size, size, max_size)
    ratios = width / picture.width, height / picture.height
    return picture.resize((width, height), Image.Resampling.BILINEAR), boxes * np.array([*ratios, *ratios])


def original_flip(picture, boxes):
    boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1]) + np.array([picture.width, 0, picture.width, 0])
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), boxes


def original_crop(picture, boxes, labels, top, left, height, width):
    boxes = (boxes - np.array([left, top, left, top])).reshape(-1, 2, 2)
    boxes = np.minimum(boxes, np.array([width, height])).clip(min=0)
    keep = np.all(boxes[:, 1] > boxes[:, 0], axis=1)
    return picture.crop((left, top, left + width, top + height)), boxes.reshape(-1, 4)[keep], labels[keep]


def original_normalize(picture, boxes):
    boxes = np.stack([boxes[:, 0::2].mean(1), boxes[:, 1::2].mean(1), boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]], 1)  # fmt: skip  # noqa: E501
    return boxes / np.array([*picture.size, *picture.size])


def original_transforms(picture, boxes, labels, uniforms):
    """make_coco_transforms('train'); each draw takes the number that decides it in ``augmentation.views``."""
    flip, crop, crop_scale, scale, height, width, top, left = uniforms
    if flip < 0.5:
        picture, boxes = original_flip(picture, boxes)
    if crop < 0.5:
        picture, boxes = original_resize(picture, boxes, [400, 500, 600][int(crop_scale * 3)])
        h = 384 + int(height * (min(picture.height, 600) - 384 + 1))  # random.randint includes both ends
        w = 384 + int(width * (min(picture.width, 600) - 384 + 1))
        i, j = int(top * (picture.height - h + 1)), int(left * (picture.width - w + 1))
        picture, boxes, labels = original_crop(picture, boxes, labels, i, j, h, w)
    picture, boxes = original_resize(picture, boxes, range(480, 801, 32)[int(scale * 11)], 1333)
    return np.asarray(picture), original_normalize(picture, boxes), labels


def test_training_transforms(real_data, differences):
    root = real_data / "coco128"
    annotations = coco.read_annotations(root / "annotations" / "instances_train2017.json")
    categories = coco.categories(annotations["categories"])
    rng = np.random.default_rng(0)
    kept = dropped = 0
    for image in annotations["images"][:20]:
        found = [one for one in annotations["annotations"] if one["image_id"] == image["id"]]
        boxes, labels = coco.make_targets(image, found, categories)
        (path,) = root.rglob(image["file_name"])
        pixels = decode(path.read_bytes())
        for _ in range(4):
            uniforms = rng.random(augmentation.DRAWS)
            view = augmentation.views(np.array([pixels.shape[:2]]), uniforms[None], DataConfig()).take(0)
            ours = augmentation.apply(pixels, boxes, labels, view)
            theirs = original_transforms(Image.fromarray(pixels), boxes.astype(np.float64), labels, uniforms)
            assert ours[0].shape == theirs[0].shape
            np.testing.assert_array_equal(ours[2], theirs[2])
            differences("pixel (of 255)", peer.largest(ours[0], theirs[0]))
            assert peer.largest(ours[0], theirs[0]) <= 1
            if len(labels):
                kept, dropped = kept + len(ours[2]), dropped + len(labels) - len(ours[2])
            if len(ours[2]):
                differences("box", peer.largest(ours[1], theirs[1]))
                assert peer.largest(ours[1], theirs[1]) <= 1e-5
    assert kept > 300 and dropped > 20
