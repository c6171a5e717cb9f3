"""Images and objects with the sizes and counts of COCO, for measurements that need no photos.

The sizes are the commonest of COCO train2017 with about their shares (73 % landscape); counts of objects are log-normal
with COCO's median 4.65, mean 7.3 and 99th percentile 42, at most 93, and 1 % of the images are empty.
"""

import numpy as np
from jaxtyping import Int

from detr_jax.batches.canvases import Bucket
from detr_jax.datasets.coco import COCO_CATEGORIES
from detr_jax.structures import Batch, Targets, View

SIZES = {
    (480, 640): 0.40, (427, 640): 0.16, (426, 640): 0.06, (425, 640): 0.06, (360, 640): 0.05, (640, 480): 0.16,
    (640, 427): 0.06, (640, 640): 0.03, (500, 375): 0.02,
}  # fmt: skip

CLASSES = len(COCO_CATEGORIES.ids)


def counts(images: int, rng: np.random.Generator) -> Int[np.ndarray, " images"]:
    """How many objects each of so many images has."""
    drawn = np.clip(rng.lognormal(np.log(4.65), 0.95, images).round(), 1, 93)
    return np.where(rng.random(images) < 0.01, 0, drawn).astype(np.int32)


class Images:
    """A split without pixels: what the batch plan looks at."""

    name = "made up"
    categories = COCO_CATEGORIES

    def __init__(self, count: int = 4096, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.image_ids = np.arange(count)
        self.sizes = np.array(list(SIZES), np.int32)[rng.choice(len(SIZES), count, p=list(SIZES.values()))]
        self.target_counts = counts(count, rng)

    def __len__(self) -> int:
        return len(self.image_ids)


def batch(bucket: Bucket, size: int, classes: int, rng: np.random.Generator) -> Batch:
    """Noise on a canvas, filled by each image to 80 to 100 % of its sides, and random objects."""
    canvas = np.array([bucket.height, bucket.width])
    sizes = np.ceil(canvas * rng.uniform(0.8, 1.0, (size, 2))).astype(np.int32)
    images = rng.integers(0, 256, (size, bucket.height, bucket.width, 3), np.uint8)
    for image, (height, width) in zip(images, sizes, strict=True):
        image[height:], image[:, width:] = 0, 0
    valid = np.arange(bucket.targets)[None] < np.minimum(counts(size, rng), bucket.targets)[:, None]
    extent = rng.uniform(0.02, 0.6, (size, bucket.targets, 2))
    center = rng.uniform(extent / 2, 1 - extent / 2)
    boxes = np.where(valid[..., None], np.concatenate([center, extent], axis=-1), 0).astype(np.float32)
    labels = np.where(valid, rng.integers(0, classes, valid.shape), 0).astype(np.int32)
    return Batch(images, sizes, Targets(boxes, labels, valid), np.arange(size))


def unseen(batch: Batch, shape: tuple[int, int, int], rng: np.random.Generator) -> Batch:
    """The same batch before it was looked at: noise that fills canvases of this shape, to be resized."""
    rows = len(batch.sizes)
    images = rng.integers(0, 256, (rows, *shape), np.uint8)
    whole = np.tile(np.array(shape[:2], np.int32), (rows, 1))
    box = np.concatenate([np.zeros_like(whole), whole], axis=1)
    views = View(np.zeros(rows, np.int32), whole, box, batch.sizes)
    return batch._replace(images=images, sizes=whole, views=views)
