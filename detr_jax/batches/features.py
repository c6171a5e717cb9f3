"""A reader of features: what a frozen stage of the backbone makes of each view, computed once and kept in memory.

If nothing up to a stage is trained and an image has few views, its features there are the same in every epoch. Padding
is inert, so the features of an image alone are those it has on any canvas.
"""

import threading
from collections.abc import Callable

import numpy as np

from detr_jax.batches.inputs import ImageSource, Objects, PixelReader, clear_margins
from detr_jax.structures import Array, Bucket, Features, View


class FeatureReader:
    """Reads ``Features`` in float16; each view is computed once. Threads may share it.

    Args:
      compute: (pixels [1 H W 3], sizes [1 2]) of one image on any canvas -> its features [1 h w C].
      stage: of the backbone: 1 for layer1, ...
      stride: pixels a feature cell is wide.
      channels: C.
      pixels: reads the views.
    """

    def __init__(
        self,
        compute: Callable[[np.ndarray, np.ndarray], Array],
        stage: int,
        stride: int,
        channels: int,
        pixels: PixelReader | None = None,
    ):
        self._compute, self._stage, self._stride, self._channels = compute, stage, stride, channels
        self._pixels = pixels or PixelReader()
        self._kept: dict[tuple, tuple[np.ndarray, Objects]] = {}
        self._lock = threading.Lock()

    def empty(self, bucket: Bucket, rows: int) -> Features:
        """Feature maps of the bucket's canvas."""
        h, w = -(-bucket.height // self._stride), -(-bucket.width // self._stride)
        features = np.empty((rows, h, w, self._channels), np.float16)
        return Features(features, np.empty((rows, 2), np.int32), self._stage)

    def read(self, images: ImageSource, index: int, view: View, bucket: Bucket, inputs: Features, row: int) -> Objects:
        """See ``Reader``."""
        key = index, *(tuple(np.ravel(field).tolist()) for field in view)
        if key not in self._kept:
            one = self._pixels.empty(bucket, 1)
            objects = self._pixels.read(images, index, view, bucket, one, 0)
            h, w = (-(-int(side) // self._stride) for side in view.size)
            features = np.asarray(self._compute(*one))[0, :h, :w].astype(np.float16)
            with self._lock:
                self._kept[key] = features, objects
        features, objects = self._kept[key]
        h, w = features.shape[:2]
        inputs.features[row, :h, :w] = features
        clear_margins(inputs.features[row], h, w)
        inputs.sizes[row] = view.size
        return objects
