"""What of an image goes onto the canvas: its pixels as the view shows them, or as they were read.

``data.resize`` decides who resizes: ``host`` does it as the original, ``fast`` in a fifth of that time and at most one
level off for each resize that enlarges; with ``device`` the host only reads and decodes, and the training step does
the rest (``models/preprocess.py``).
"""

from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from detr_jax.batches import augmentation
from detr_jax.batches.augmentation import View
from detr_jax.batches.canvases import Bucket
from detr_jax.datasets.decode import decode
from detr_jax.datasets.split import Record
from detr_jax.errors import UserError

RESIZES = ("host", "fast", "device")
# Pixels a side of the canvas of whole photos. Then a photo is 3 MB, as much as the largest canvas of COCO, and looking
# at it costs a few percent of what an R50 costs; beyond, shipping photos would take more than resizing saves.
LARGEST_SIDE = 1024


@runtime_checkable
class Source(Protocol):
    """What images are read from: a ``Split``, or anything else that can say as much."""

    name: str
    sizes: np.ndarray  # [M 2] (height, width)

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class Pictures(Protocol):
    """What of an image goes onto the canvas."""

    dtype: np.dtype
    unseen: bool  # whether the view is still to be taken: the batch then carries it

    def shape(self, bucket: Bucket) -> tuple[int, int, int]:
        """(height, width, channels) of a canvas."""

    def __call__(self, source: Source, index: int, view: View, bucket: Bucket, canvas: np.ndarray):
        """Fills the top left corner of ``canvas``, an array of ``shape(bucket)``; the rest may hold anything.

        Returns (height and width of what was filled, boxes [n 4], labels [n]).
        """


def read(
    source: Source, index: int, canvas: UInt8[np.ndarray, "H W 3"] | None = None
) -> tuple[Record, UInt8[np.ndarray, "h w 3"]]:
    """An image's record and its pixels, on ``canvas`` if they happen to fit: see ``decode``.

    Raises UserError, which names the image, when it cannot be decoded.
    """
    record = source[index]
    height, width = (int(side) for side in source.sizes[index])
    try:
        return record, decode(record.image, (height, width), canvas)
    except ValueError as error:
        raise UserError(
            f"image {record.image_id} ({record.file_name}) of the split {source.name!r} cannot be used: {error}; "
            f"python -m detr_jax.dataset check lists every such image"
        ) from error


class Pixels:
    """Images as the view shows them; ``resize`` is one of the two ways of ``augmentation``."""

    dtype = np.dtype(np.uint8)
    unseen = False

    def __init__(self, resize: augmentation.Resize = augmentation.exact):
        self._resize = resize

    def shape(self, bucket: Bucket) -> tuple[int, int, int]:
        """The bucket's own, and three colours."""
        return bucket.height, bucket.width, 3

    def __call__(self, source: Source, index: int, view: View, bucket: Bucket, canvas: np.ndarray):
        """Reads and decodes; see ``read`` for what it raises."""
        record, image = read(source, index)
        height, width = (int(side) for side in view.size)
        corner, boxes = canvas[:height, :width], record.boxes_xyxy_pixels
        _, *objects = augmentation.apply(image, boxes, record.labels, view, self._resize, corner)
        return (height, width), *objects


class Photos:
    """Images as they were read, all on canvases of one shape that holds each; boxes as the view shows them.

    Args:
      sizes: (height, width) of all images.

    Raises UserError when one is larger than ``LARGEST_SIDE``.
    """

    dtype = np.dtype(np.uint8)
    unseen = True

    def __init__(self, sizes: Int[np.ndarray, "M 2"]):
        height, width = (int(side) for side in sizes.max(axis=0))
        if max(height, width) > LARGEST_SIDE:
            raise UserError(
                f"--config.data.resize=device takes images of up to {LARGEST_SIDE} pixels a side, but there are some "
                f"of {max(height, width)}: set --config.data.resize=fast, or prepare smaller images"
            )
        self.canvas = -(-height // 32) * 32, -(-width // 32) * 32

    def shape(self, bucket: Bucket) -> tuple[int, int, int]:
        """The same for every bucket."""
        return *self.canvas, 3

    def __call__(self, source: Source, index: int, view: View, bucket: Bucket, canvas: np.ndarray):
        """Reads and decodes; see ``read`` for what it raises."""
        record, image = read(source, index, canvas)
        height, width = image.shape[:2]
        if not np.may_share_memory(image, canvas):
            canvas[:height, :width] = image
        objects = augmentation.boxes_seen((height, width), record.boxes_xyxy_pixels, record.labels, view)
        return (height, width), *objects


def chosen(resize: str, sizes: Int[np.ndarray, "M 2"]) -> Pictures:
    """The pictures that ``data.resize`` asks for. Raises UserError when there is no such way, or none for these."""
    if resize not in RESIZES:
        raise UserError(f"--config.data.resize={resize!r} does not exist; choose from {', '.join(RESIZES)}")
    if resize == "device":
        return Photos(sizes)
    if resize == "host":
        return PIXELS
    cv2.setNumThreads(1)  # images are looked at in the pipeline's threads; OpenCV's own would stand in their way
    return Pixels(augmentation.fast)


PIXELS = Pixels()
