"""DETR's augmentation: first the geometry of every image is drawn (a ``View``), then it is applied to the pixels.

The original's recipe: flip; then either resize, or resize, crop and resize. Drawing the views of a whole epoch without
reading any image is what lets the plan group images by their final size and repeat every step exactly.
"""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from detr_jax.config import DataConfig
from detr_jax.structures import View

DRAWS = 8  # uniform numbers that decide one view: flip, crop or not, 2 scales, height, width, top and left of the crop
SLIMMEST = 20  # more elongated images are never cropped: with a short side of 600 pixels they could take gigabytes


def evaluation_settings(data: DataConfig) -> DataConfig:
    """The settings under which every draw gives the evaluation view: resized to the largest scale, nothing else."""
    return dataclasses.replace(data, scales=(max(data.scales),), flip=0.0, flip_vertical=0.0, crop=0.0)


def views(sizes: Int[np.ndarray, "M 2"], uniforms: Float[np.ndarray, "M 8"], data: DataConfig) -> View:
    """The views of M images, each decided by its own ``DRAWS`` numbers in [0, 1).

    A view depends on nothing else: neither on the other images nor on how the work is divided among hosts.

    Args:
      sizes: (height, width) of the images as stored.
    """
    flip, crop, crop_scale, scale, height, width, top, left = uniforms.T
    resized = resized_sizes(sizes, _choose(data.crop_scales or data.scales, crop_scale))  # without crops, none is used
    least = np.minimum(data.crop_min, resized)
    most = np.minimum(data.crop_max, resized)
    extent = least + _integers_below(most - least + 1, np.stack([height, width], axis=1))
    corner = _integers_below(resized - extent + 1, np.stack([top, left], axis=1))

    cropped = (crop < data.crop) & (sizes.max(axis=1) <= SLIMMEST * sizes.min(axis=1))
    resized = np.where(cropped[:, None], resized, sizes)
    extent = np.where(cropped[:, None], extent, sizes)
    corner = np.where(cropped[:, None], corner, 0)
    final = resized_sizes(extent, _choose(data.scales, scale), data.max_size)
    box = np.concatenate([corner, extent], axis=1)
    # The vertical flip uses later digits of the same number: a ninth draw would change the views of runs without it.
    flips = (flip < data.flip) + 2 * (flip * 2**16 % 1 < data.flip_vertical)
    return View(flips.astype(np.int32), resized.astype(np.int32), box.astype(np.int32), final.astype(np.int32))


def _integers_below(limits, uniforms):
    """Integers in [0, limit), decided by the uniform numbers."""
    return np.floor(uniforms * limits).astype(np.int64)


def _choose(choices: tuple[int, ...], uniforms):
    return np.array(choices)[_integers_below(len(choices), uniforms)]


def resized_sizes(
    sizes: Int[np.ndarray, "M 2"], scales: Int[np.ndarray, " M"], max_size: int | None = None
) -> Int[np.ndarray, "M 2"]:
    """(height, width) with a short side of ``scale``, or less where the long side would exceed ``max_size``.

    Rounds as the original does: a limited short side to the nearest integer, the long side down.
    """
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    if max_size is not None:
        limited = np.maximum(np.rint(max_size * short / long), 1).astype(np.int64)
        scales = np.where(long / short * scales > max_size, limited, scales)
    return scales[:, None] * sizes // short[:, None]


Resize = Callable[[np.ndarray, np.ndarray], None]  # (image, out): resizes the image to the size of ``out``, into it


def exact(image: UInt8[np.ndarray, "h w 3"], out: UInt8[np.ndarray, "H W 3"]) -> None:
    """Resizes with Pillow, as the original does: bilinear, antialiased where it shrinks."""
    resized = Image.fromarray(image).resize(out.shape[1::-1], Image.Resampling.BILINEAR)
    pixels = np.frombuffer(resized.tobytes(), np.uint8)  # the values of np.asarray(resized), in a tenth of its time
    out[...] = pixels.reshape(out.shape)


def fast(image: UInt8[np.ndarray, "h w 3"], out: UInt8[np.ndarray, "H W 3"]) -> None:
    """Resizes with OpenCV where no side shrinks, within one level of Pillow; elsewhere with Pillow.

    OpenCV's bilinear resize has no antialiasing.
    """
    if out.shape[0] < image.shape[0] or out.shape[1] < image.shape[1]:
        exact(image, out)
    else:
        cv2.resize(image, out.shape[1::-1], dst=out, interpolation=cv2.INTER_LINEAR)


def apply(
    image: UInt8[np.ndarray, "h w 3"],
    boxes_xyxy_pixels: Float[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " n"],
    view: View,
    resize: Resize = exact,
    out: UInt8[np.ndarray, "H W 3"] | None = None,
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "m 4"], Int[np.ndarray, " m"]]:
    """The pixels, boxes and labels of the view; the pixels are written to ``out`` if it is given.

    See ``apply_to_pixels`` and ``apply_to_boxes``.
    """
    out = np.empty((*view.size, 3), np.uint8) if out is None else out
    apply_to_pixels(image, view, out, resize)
    return out, *apply_to_boxes(image.shape[:2], boxes_xyxy_pixels, labels, view)


def apply_to_boxes(
    size: tuple[int, int], boxes_xyxy_pixels: Float[np.ndarray, "n 4"], labels: Int[np.ndarray, " n"], view: View
) -> tuple[Float[np.ndarray, "m 4"], Int[np.ndarray, " m"]]:
    """Boxes (cx, cy, w, h) in [0, 1] of the view, and their labels.

    Boxes are clipped to the crop; an object with nothing left inside is dropped.

    Args:
      size: (height, width) of the image as stored.
      boxes_xyxy_pixels: boxes of the image as stored.
    """
    if view.flip & 1:
        x0, y0, x1, y1 = boxes_xyxy_pixels.T
        boxes_xyxy_pixels = np.stack([size[1] - x1, y0, size[1] - x0, y1], axis=1)
    if view.flip & 2:
        x0, y0, x1, y1 = boxes_xyxy_pixels.T
        boxes_xyxy_pixels = np.stack([x0, size[0] - y1, x1, size[0] - y0], axis=1)
    top, left, height, width = view.crop
    extent = _corners(width, height)
    boxes = boxes_xyxy_pixels * _corners(view.resize[1] / size[1], view.resize[0] / size[0]) - _corners(left, top)
    boxes = np.clip(boxes, 0, extent)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes = boxes[inside] / extent
    boxes = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    return boxes, labels[inside]


def apply_to_pixels(
    image: UInt8[np.ndarray, "h w 3"], view: View, out: UInt8[np.ndarray, "H W 3"], resize: Resize = exact
) -> None:
    """Writes the pixels of the view to ``out``, rounded to 8 bits after each step as in the original."""
    if view.flip:
        image = cv2.flip(image, {1: 1, 2: 0, 3: -1}[int(view.flip)])
    if image.shape[:2] != tuple(view.resize):
        whole = np.empty((*view.resize, 3), np.uint8)
        resize(image, whole)
        image = whole
    top, left, height, width = (int(number) for number in view.crop)
    image = image[top : top + height, left : left + width]
    if image.shape == out.shape:
        out[...] = image
    else:
        resize(image, out)


def _corners(x, y) -> Float[np.ndarray, " 4"]:
    """(x, y, x, y), to combine with the corners of boxes."""
    return np.array([x, y, x, y], np.float32)
