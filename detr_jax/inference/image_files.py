"""Images without annotations, as a split that takes the same way to the model as a dataset."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from detr_jax.batches.augmentation import apply_to_pixels
from detr_jax.batches.inputs import Objects, PixelReader, clear_margins
from detr_jax.errors import UserError
from detr_jax.images.decoding import ACCEPTED, LIMITS, RGB, ImageLike, Limits, decode_upright, name_of, upright_size
from detr_jax.structures import Bucket, Pixels, View


class ImageFiles:
    """Images as people pass them (see ``images/decoding.py``): paths, bytes, Pillow images, arrays, in any mixture.

    ``image_files[i]`` are the upright pixels of the i-th; files are read when they are asked for. Raises UserError,
    which names the image, when one cannot be used.

    Attributes:
      image_ids: 0, 1, 2, ...
      sizes: int32 [M 2], (height, width) of the images upright.
      target_counts: zeros.

    Args:
      limits: how large an image file may be.
    """

    name = "the input"

    def __init__(self, given: Sequence[Any], limits: Limits = LIMITS):
        self._limits, self._count = limits, len(given)
        # Pillow images are decoded here: they read their files lazily, and two threads cannot share one.
        self._images = [
            image if isinstance(image, str | os.PathLike | bytes) else self._decode(image, number)
            for number, image in enumerate(given)
        ]
        sizes = [self._call(upright_size, image, number) for number, image in enumerate(self._images)]
        self.image_ids = np.arange(len(given))
        self.sizes = np.array(sizes, np.int32).reshape(-1, 2)
        self.target_counts = np.zeros(len(given), np.int32)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> RGB:
        return self._call(decode_upright, self._images[index], index)

    def _decode(self, image: Any, number: int) -> RGB:
        if not isinstance(image, ImageLike):
            raise UserError(f"image {number} is of type {type(image).__name__}; pass {ACCEPTED}")
        return self._call(decode_upright, image, number)

    def _call(self, function, image: ImageLike, number: int):
        """``function(image, limits)``, with a UserError that names the image in place of its ValueError."""
        try:
            return function(image, self._limits)
        except ValueError as error:
            name = name_of(image)
            if self._count > 1 and not isinstance(image, str | os.PathLike):
                name = f"image {number} ({name})"
            raise UserError(f"{name} cannot be used: {error}") from error


class UprightReader:
    """Reads ``ImageFiles`` for a ``Pipeline``; the ``Reader`` of images that have no annotations."""

    def empty(self, bucket: Bucket, rows: int) -> Pixels:
        """Canvases of the bucket's shape."""
        return PixelReader().empty(bucket, rows)

    def read(self, images: ImageFiles, index: int, view: View, bucket: Bucket, inputs: Pixels, row: int) -> Objects:
        """See ``Reader``."""
        (height, width), canvas = (int(side) for side in view.size), inputs.pixels[row]
        apply_to_pixels(images[index], view, canvas[:height, :width])
        clear_margins(canvas, height, width)
        inputs.sizes[row] = height, width
        return np.zeros((0, 4)), np.zeros(0, np.int32)
