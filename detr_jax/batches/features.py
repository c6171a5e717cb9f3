"""Features of the frozen part of the backbone, computed once for every view of an image and kept in memory.

Where nothing below a stage learns and an image has few views, its features there are the same in every epoch. Padding
is inert, so those of an image alone are those it has on any canvas.
"""

import threading
from collections.abc import Callable

import numpy as np

from detr_jax.batches.augmentation import Augmentation, View
from detr_jax.batches.canvases import Bucket
from detr_jax.batches.inputs import PIXELS, Source
from detr_jax.errors import UserError

STAGES = ("", "layer1", "layer2", "layer3", "layer4")
BELOW = ("backbone/conv1/", "backbone/norm1/")


def checked_stage(name: str, settings: Augmentation, trained: list[str], resize: str = "host") -> int:
    """The number of the stage to cache, 0 for none.

    Args:
      name: '' or 'layer1', 'layer2', ...
      settings: the augmentation.
      trained: names of the trained arrays.
      resize: the setting of that name; who resizes the images.

    Raises UserError when there is no such stage, when something below it is trained, when views never come again, or
    when the images are not resized as the cache does it.
    """
    if name not in STAGES:
        raise UserError(f"--config.train.cache_features={name!r} is no stage; choose from {', '.join(STAGES[1:])}")
    stage = STAGES.index(name)
    if not stage:
        return 0
    parts = [*BELOW, *(f"backbone/{below}/" for below in STAGES[1 : stage + 1])]
    learning = sorted({part.strip("/") for part in parts for array in trained if array.startswith(part)})
    if learning:
        raise UserError(
            f"--config.train.cache_features={name} keeps what does not change, but {', '.join(learning)} would be "
            f'trained; set --config.freeze="({", ".join(map(repr, learning))},)" too'
        )
    if settings.crop or len(settings.scales) > 1:
        raise UserError(
            "--config.train.cache_features needs views that come again: set --config.data.crop=0 and one scale, "
            f'--config.data.scales="({settings.scales[0]},)"'
        )
    if resize != "host":
        raise UserError(
            f"--config.train.cache_features resizes each image once, as evaluation does, and has no use for "
            f"--config.data.resize={resize}: leave that out"
        )
    return stage


class FeatureCache:
    """``Pictures`` of a stage's features, in float16; safe to share by threads.

    Args:
      compute: (images uint8 [1 H W 3], sizes [1 2]) -> features [1 h w C] on any canvas.
      stride, channels: of the features.
    """

    dtype = np.dtype(np.float16)
    unseen = False

    def __init__(self, compute: Callable[[np.ndarray, np.ndarray], np.ndarray], stride: int, channels: int):
        self._compute, self._stride, self._channels = compute, stride, channels
        self._kept: dict[tuple, tuple] = {}
        self._lock = threading.Lock()

    def shape(self, bucket: Bucket) -> tuple[int, int, int]:
        """(h, w, C) of the features of a canvas."""
        return -(-bucket.height // self._stride), -(-bucket.width // self._stride), self._channels

    def __call__(self, source: Source, index: int, view: View, bucket: Bucket, canvas: np.ndarray):
        """Lays features of the real image on ``canvas``; computed at the first call for a view."""
        key = index, *(tuple(np.ravel(field).tolist()) for field in view)
        if key not in self._kept:
            pixels = np.zeros((1, *PIXELS.shape(bucket)), np.uint8)
            (h, w), boxes, labels = PIXELS(source, index, view, bucket, pixels[0])
            features = np.asarray(self._compute(pixels, np.array([[h, w]], np.int32)))[0]
            real = features[: -(-h // self._stride), : -(-w // self._stride)].astype(self.dtype)
            with self._lock:
                self._kept[key] = real, boxes, labels
        real, boxes, labels = self._kept[key]
        h, w = real.shape[:2]
        canvas[:h, :w] = real
        return (h, w), boxes, labels
