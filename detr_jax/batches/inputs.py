"""Readers: what a batch holds of its images.

``data.resize`` decides. With ``host`` and ``fast`` a batch holds the pixels of each view (``Pixels``); ``fast`` takes a
fifth of the time and is within one level for each resize that enlarges. With ``device`` the host only reads and
decodes (``Photos``), and the training step takes the views (``ops/resample.py``). ``features.py`` has a third reader.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import cv2
import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from detr_jax.batches import augmentation
from detr_jax.config import DataConfig
from detr_jax.datasets.split import Record
from detr_jax.errors import BrokenImage, UserError
from detr_jax.images.decoding import LIMITS, Limits, decode
from detr_jax.structures import Batch, Bucket, Inputs, Photos, Pixels, Targets, View

# Pixels a side of the canvas of whole photos. A photo is then at most 3 MB, as much as COCO's largest canvas, and
# resampling costs a few percent of an R50's step; larger ones would take longer to send than resizing them saves.
LARGEST_SIDE = 1024
Change = Callable[[UInt8[np.ndarray, "h w 3"], int], UInt8[np.ndarray, "h w 3"]]
Objects = tuple[Float[np.ndarray, "n 4"], Int[np.ndarray, " n"]]  # boxes (cx, cy, w, h) in [0, 1] and labels


@runtime_checkable
class ImageSource(Protocol):
    """What images are read from: a ``Split``, or anything else with these members."""

    name: str
    sizes: np.ndarray  # [M 2] (height, width)

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class Reader(Protocol):
    """Reads images into the inputs of a batch."""

    def empty(self, bucket: Bucket, rows: int) -> Inputs:
        """Numpy arrays for so many images. A row means nothing until ``read`` fills it, or it is set to zero."""

    def read(self, images: ImageSource, index: int, view: View, bucket: Bucket, inputs: Inputs, row: int) -> Objects:
        """Fills one row of ``inputs``, margins included, with an image; returns the objects of its view.

        Raises BrokenImage, which names the image, when it cannot be decoded.
        """


def read_image(
    images: ImageSource, index: int, canvas: UInt8[np.ndarray, "H W 3"] | None = None, limits: Limits = LIMITS
) -> tuple[Record, UInt8[np.ndarray, "h w 3"]]:
    """The record of an image and its pixels, which lie on ``canvas`` if it suits: see ``decode``.

    Raises BrokenImage, which names the image, when it cannot be decoded.
    """
    record = images[index]
    height, width = (int(side) for side in images.sizes[index])
    try:
        return record, decode(record.image, (height, width), canvas, limits)
    except ValueError as error:
        raise BrokenImage(
            f"image {record.image_id} ({record.file_name}) of the split {images.name!r} cannot be used: {error}; "
            "python -m detr_jax.dataset check lists every such image"
        ) from error


class PixelReader:
    """Reads ``Pixels``: the views of the images.

    Args:
      resize: ``augmentation.exact`` or ``augmentation.fast``.
      limits: how large an image file may be.
      change: what is done to each image before its view is taken: (pixels, image id) -> pixels of the same shape.
    """

    def __init__(
        self,
        resize: augmentation.Resize = augmentation.exact,
        limits: Limits = LIMITS,
        change: Change | None = None,
    ):
        self._resize, self._limits, self._change = resize, limits, change

    def empty(self, bucket: Bucket, rows: int) -> Pixels:
        """Canvases of the bucket's shape."""
        return Pixels(np.empty((rows, bucket.height, bucket.width, 3), np.uint8), np.empty((rows, 2), np.int32))

    def read(self, images: ImageSource, index: int, view: View, bucket: Bucket, inputs: Pixels, row: int) -> Objects:
        """See ``Reader``."""
        record, image = read_image(images, index, limits=self._limits)
        image = self._change(image, record.image_id) if self._change else image
        (height, width), canvas = (int(side) for side in view.size), inputs.pixels[row]
        corner, boxes = canvas[:height, :width], record.boxes_xyxy_pixels
        _, *objects = augmentation.apply(image, boxes, record.labels, view, self._resize, corner)
        clear_margins(canvas, height, width)
        inputs.sizes[row] = height, width
        return tuple(objects)


class PhotoReader:
    """Reads ``Photos``: images as stored, on canvases of one shape that holds each of them, and their views.

    Args:
      sizes: (height, width) of all images.
      crop_max: pixels; no side of a crop is longer, unless the crop is the whole image.
      limits: how large an image file may be.

    Raises UserError when an image is larger than ``LARGEST_SIDE``.
    """

    def __init__(self, sizes: Int[np.ndarray, "M 2"], crop_max: int, limits: Limits = LIMITS):
        height, width = (int(side) for side in sizes.max(axis=0))
        if max(height, width) > LARGEST_SIDE:
            raise UserError(
                f"data.resize=device takes images of up to {LARGEST_SIDE} pixels a side, but there are some of "
                f"{max(height, width)}: set data.resize=fast, or prepare smaller images"
            )
        self._shape = -(-height // 32) * 32, -(-width // 32) * 32, 3
        self._crop_max, self._limits = crop_max, limits

    def empty(self, bucket: Bucket, rows: int) -> Photos:
        """Canvases of one shape for every bucket; the bucket is that of the views."""
        views = View(*(np.empty((rows, *shape), np.int32) for shape in ((), (2,), (4,), (2,))))
        pixels, sizes = np.empty((rows, *self._shape), np.uint8), np.empty((rows, 2), np.int32)
        return Photos(pixels, sizes, views, (bucket.height, bucket.width), self._crop_max)

    def read(self, images: ImageSource, index: int, view: View, bucket: Bucket, inputs: Photos, row: int) -> Objects:
        """See ``Reader``."""
        canvas = inputs.pixels[row]
        record, image = read_image(images, index, canvas, self._limits)
        height, width = image.shape[:2]
        if not np.may_share_memory(image, canvas):
            canvas[:height, :width] = image
        clear_margins(canvas, height, width)
        inputs.sizes[row] = height, width
        for of_all, of_one in zip(inputs.views, view, strict=True):
            of_all[row] = of_one
        return augmentation.apply_to_boxes((height, width), record.boxes_xyxy_pixels, record.labels, view)


def clear_margins(canvas: np.ndarray, height: int, width: int) -> None:
    """Sets everything below ``height`` and right of ``width`` to zero."""
    canvas[height:] = 0
    canvas[:height, width:] = 0


def make_reader(data: DataConfig, sizes: Int[np.ndarray, "M 2"]) -> Reader:
    """The reader that ``data.resize`` asks for, for images of these (height, width).

    Raises UserError when ``data.resize=device`` cannot take them.
    """
    limits = Limits(*data.image_limits)
    if data.resize == "device":
        return PhotoReader(sizes, data.crop_max if data.crop else 0, limits)
    if data.resize == "host":
        return PixelReader(limits=limits)
    # The pipeline's threads each resize an image; OpenCV's own threads would compete with them. The number of OpenCV's
    # threads is global to the process, so it is set where a run chooses OpenCV, not when this module is imported.
    cv2.setNumThreads(1)
    return PixelReader(augmentation.fast, limits)


def empty_batch(reader: Reader, bucket: Bucket, rows: int) -> Batch:
    """A batch of numpy arrays to be filled: no targets, no images; a row of ``inputs`` means nothing yet."""
    slots = bucket.targets
    targets = Targets(
        boxes=np.zeros((rows, slots, 4), np.float32),
        labels=np.zeros((rows, slots), np.int32),
        valid=np.zeros((rows, slots), bool),
    )
    return Batch(reader.empty(bucket, rows), targets, image_ids=np.full(rows, -1, np.int64))


def batch_shapes(reader: Reader, bucket: Bucket, batch_size: int, sharding: jax.sharding.Sharding) -> Batch:
    """A global batch on this canvas as ``jax.ShapeDtypeStruct``, to compile for."""

    def describe(array: np.ndarray) -> jax.ShapeDtypeStruct:
        dtype = jax.dtypes.canonicalize_dtype(array.dtype)  # image ids have 32 bits on a device
        return jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), dtype, sharding=sharding)

    return jax.tree.map(describe, empty_batch(reader, bucket, 1))
