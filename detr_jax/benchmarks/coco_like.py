"""Images and objects with the sizes and counts of COCO, for measurements that need no photos.

Sizes are the most common ones of COCO train2017, in about their shares (73 % landscape). Counts of objects are
log-normal with COCO's median 4.65, mean 7.3 and 99th percentile 42, at most 93; 1 % of the images are empty.
"""

import numpy as np
from jaxtyping import Int

from detr_jax.batches.inputs import Reader
from detr_jax.datasets.coco import COCO_CATEGORIES
from detr_jax.structures import Batch, Bucket, Features, Inputs, Photos, Pixels, Targets, View

SIZES = {
    (480, 640): 0.40, (427, 640): 0.16, (426, 640): 0.06, (425, 640): 0.06, (360, 640): 0.05, (640, 480): 0.16,
    (640, 427): 0.06, (640, 640): 0.03, (500, 375): 0.02,
}  # fmt: skip

CLASSES = len(COCO_CATEGORIES.ids)


def draw_counts(images: int, rng: np.random.Generator) -> Int[np.ndarray, " images"]:
    """The number of objects in each image."""
    drawn = np.clip(rng.lognormal(np.log(4.65), 0.95, images).round(), 1, 93)
    return np.where(rng.random(images) < 0.01, 0, drawn).astype(np.int32)


class ImageSizes:
    """The table of a made-up split, as the batch plan needs it; there are no pixels."""

    categories = COCO_CATEGORIES

    def __init__(self, count: int = 4096, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.image_ids = np.arange(count)
        self.sizes = np.array(list(SIZES), np.int32)[rng.choice(len(SIZES), count, p=list(SIZES.values()))]
        self.target_counts = draw_counts(count, rng)


def make_batch(bucket: Bucket, size: int, classes: int, rng: np.random.Generator) -> Batch:
    """``Pixels`` of noise, each image 80 to 100 % as high and wide as the canvas, with random objects."""
    canvas = np.array([bucket.height, bucket.width])
    sizes = np.ceil(canvas * rng.uniform(0.8, 1.0, (size, 2))).astype(np.int32)
    pixels = rng.integers(0, 256, (size, bucket.height, bucket.width, 3), np.uint8)
    for image, (height, width) in zip(pixels, sizes, strict=True):
        image[height:], image[:, width:] = 0, 0
    valid = np.arange(bucket.targets)[None] < np.minimum(draw_counts(size, rng), bucket.targets)[:, None]
    extent = rng.uniform(0.02, 0.6, (size, bucket.targets, 2))
    center = rng.uniform(extent / 2, 1 - extent / 2)
    boxes = np.where(valid[..., None], np.concatenate([center, extent], axis=-1), 0).astype(np.float32)
    labels = np.where(valid, rng.integers(0, classes, valid.shape), 0).astype(np.int32)
    return Batch(Pixels(pixels, sizes), Targets(boxes, labels, valid), np.arange(size))


def make_inputs(pixels: Pixels, reader: Reader, bucket: Bucket, rng: np.random.Generator) -> Inputs:
    """Noise in the form in which ``reader`` gives images, for views of the same sizes as ``pixels``.

    ``Photos`` fill their canvases and are resized; ``Features`` are random; ``Pixels`` are returned as they are.
    """
    inputs = reader.empty(bucket, len(pixels.sizes))
    if isinstance(inputs, Photos):
        return _make_photos(inputs, pixels.sizes, rng)
    if isinstance(inputs, Features):
        noise = rng.standard_normal(inputs.features.shape, np.float32)
        return inputs._replace(features=noise.astype(inputs.features.dtype), sizes=pixels.sizes)
    return pixels


def _make_photos(photos: Photos, view_sizes: np.ndarray, rng: np.random.Generator) -> Photos:
    rows, height, width, _ = photos.pixels.shape
    whole = np.tile(np.array([height, width], np.int32), (rows, 1))
    crop = np.concatenate([np.zeros_like(whole), whole], axis=1)
    views = View(np.zeros(rows, np.int32), whole, crop, view_sizes)
    return photos._replace(pixels=rng.integers(0, 256, photos.pixels.shape, np.uint8), sizes=whole, views=views)
