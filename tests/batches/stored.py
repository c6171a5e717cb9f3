"""Images in memory that can be read as a split: what the tests of the batches share."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from detr_jax.config import DataConfig
from detr_jax.datasets.split import Record
from detr_jax.structures import Bucket

BUCKETS = (Bucket(64, 96, 6), Bucket(96, 64, 6), Bucket(96, 144, 9), Bucket(144, 96, 9))
DATA = DataConfig(
    scales=(48, 64, 80), max_size=133, crop_scales=(40, 50, 60), crop_min=38, crop_max=60, buckets=BUCKETS
)


class Stored(NamedTuple):
    """What a Split offers, without a disk."""

    name: str
    image_ids: np.ndarray
    sizes: np.ndarray
    target_counts: np.ndarray
    files: list[bytes]

    def __getitem__(self, index):
        height, width = self.sizes[index]
        count = self.target_counts[index]
        low = np.random.default_rng(index).random((count, 2)) * 0.5
        boxes = np.concatenate([low, low + 0.4], axis=1) * [width, height, width, height]
        labels = np.arange(count, dtype=np.int32)
        image_id = int(self.image_ids[index])
        return Record(self.files[index], image_id, f"{image_id:04}.jpg", boxes.astype(np.float32), labels)


def make_images() -> Stored:
    """Thirty small JPEG files of noise with up to eight objects each."""
    rng = np.random.default_rng(0)
    sizes = rng.choice([[48, 64], [64, 48], [60, 60], [40, 90]], 30).astype(np.int32)
    files = []
    for height, width in sizes:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, "JPEG")
        files.append(file.getvalue())
    return Stored("train", 100 + np.arange(30) * 7, sizes, rng.integers(0, 9, 30).astype(np.int32), files)
