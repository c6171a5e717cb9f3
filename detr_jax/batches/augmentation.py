"""DETR's augmentation, as geometry decided beforehand (a ``View``) and then applied to the pixels.

The original's recipe: flip; then either resize, or resize, crop and resize. Deciding first, for all images of an epoch
at once and without reading them, is what lets the plan sort images by their final size and repeat any step exactly.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from detr_jax.errors import UserError
from detr_jax.structures import View


class Augmentation(NamedTuple):
    """The settings of the recipe; the defaults are the original's for training. Lengths are pixels."""

    scales: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)  # of the short side
    max_size: int = 1333  # of the long side; wins over the scale
    flip: float = 0.5  # probability of mirroring left and right
    crop: float = 0.5  # probability of resizing and cropping before the final resize
    crop_scales: tuple[int, ...] = (400, 500, 600)  # of the short side before the crop, whatever the long side
    crop_min: int = 384  # of each side of the crop, drawn independently
    crop_max: int = 600
    flip_vertical: float = 0.0  # probability of turning upside down, for images without an up: cells, aerial views


def checked(settings: Augmentation) -> Augmentation:
    """The settings themselves. Raises UserError, which names the key, when one cannot be followed."""
    lengths = {"scales": settings.scales, "max_size": (settings.max_size,)}
    if settings.crop:
        lengths |= {"crop_scales": settings.crop_scales, "crop_min": (settings.crop_min,)}
        lengths |= {"crop_max": (settings.crop_max - settings.crop_min + 1,)}
    for name, values in lengths.items():
        if not values or min(values) < 1:
            below = "crop_min" if name == "crop_max" else "1 pixel, or is empty"
            raise UserError(f"--config.data.{name}={getattr(settings, name)} is below {below}")
    for name in ("flip", "flip_vertical", "crop"):
        if not 0 <= getattr(settings, name) <= 1:
            raise UserError(f"--config.data.{name}={getattr(settings, name)} is a probability: choose from 0 to 1")
    return settings


def evaluation(scale: int = 800, max_size: int = 1333) -> Augmentation:
    """The settings under which every draw gives the one view for evaluation: resized, nothing else."""
    return Augmentation(scales=(scale,), max_size=max_size, flip=0.0, crop=0.0)


DRAWS = 8  # uniform numbers that decide one view: flip, crop or not, 2 scales, height, width, top and left of the crop
SLIMMEST = 20  # images more elongated than this are never cropped: 600 pixels across could be gigabytes along


def views(sizes: Int[np.ndarray, "M 2"], uniforms: Float[np.ndarray, "M 8"], settings: Augmentation) -> View:
    """The views of images of these (height, width), decided by ``DRAWS`` numbers in [0, 1) each.

    Only such numbers enter, and each image has its own, so a view depends neither on the other images nor on how the
    work is divided.
    """
    flip, crop, crop_scale, scale, height, width, top, left = uniforms.T
    resized = resized_sizes(sizes, _pick(settings.crop_scales, crop_scale))
    least = np.minimum(settings.crop_min, resized)
    most = np.minimum(settings.crop_max, resized)
    extent = least + _below(np.stack([height, width], axis=1), most - least + 1)
    corner = _below(np.stack([top, left], axis=1), resized - extent + 1)

    cropped = (crop < settings.crop) & (sizes.max(axis=1) <= SLIMMEST * sizes.min(axis=1))
    resized = np.where(cropped[:, None], resized, sizes)
    extent = np.where(cropped[:, None], extent, sizes)
    corner = np.where(cropped[:, None], corner, 0)
    final = resized_sizes(extent, _pick(settings.scales, scale), settings.max_size)
    box = np.concatenate([corner, extent], axis=1)
    # Decided by later digits of the same number: one draw more would change the data of every run without this flip.
    flips = (flip < settings.flip) + 2 * (flip * 2**16 % 1 < settings.flip_vertical)
    return View(flips.astype(np.int32), resized.astype(np.int32), box.astype(np.int32), final.astype(np.int32))


def _below(uniforms, limits):
    """Integers in [0, limit): the uniform number decides which."""
    return np.floor(uniforms * limits).astype(np.int64)


def _pick(choices: tuple[int, ...], uniforms):
    return np.array(choices)[_below(uniforms, len(choices))]


def resized_sizes(
    sizes: Int[np.ndarray, "M 2"], scales: Int[np.ndarray, " M"], max_size: int | None = None
) -> Int[np.ndarray, "M 2"]:
    """(height, width) once the short side is ``scale``, or less where the long side would exceed ``max_size``.

    Rounds exactly as the original does: the limited short side to the nearest, the long side down.
    """
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    if max_size is not None:
        limited = np.maximum(np.rint(max_size * short / long), 1).astype(np.int64)
        scales = np.where(long / short * scales > max_size, limited, scales)
    return scales[:, None] * sizes // short[:, None]


Resize = Callable[[np.ndarray, np.ndarray], None]  # (image, out): fills ``out`` with the image in its size


def exact(image: UInt8[np.ndarray, "h w 3"], out: UInt8[np.ndarray, "H W 3"]) -> None:
    """Resizes with Pillow as the original: bilinear, antialiased where it shrinks."""
    picture = Image.fromarray(image).resize(out.shape[1::-1], Image.Resampling.BILINEAR)
    pixels = np.frombuffer(picture.tobytes(), np.uint8)  # what np.asarray(picture) gives, in a tenth of its time
    out[...] = pixels.reshape(out.shape)


def fast(image: UInt8[np.ndarray, "h w 3"], out: UInt8[np.ndarray, "H W 3"]) -> None:
    """Resizes with OpenCV where nothing shrinks, at most a level from Pillow; it has no antialiasing, so else exact."""
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
    """The image, in ``out`` if that is given, and its objects as the view shows them.

    See ``pixels_seen`` and ``boxes_seen``.
    """
    out = np.empty((*view.size, 3), np.uint8) if out is None else out
    pixels_seen(image, view, out, resize)
    return out, *boxes_seen(image.shape[:2], boxes_xyxy_pixels, labels, view)


def boxes_seen(
    size: tuple[int, int], boxes_xyxy_pixels: Float[np.ndarray, "n 4"], labels: Int[np.ndarray, " n"], view: View
) -> tuple[Float[np.ndarray, "m 4"], Int[np.ndarray, " m"]]:
    """The objects of an image of this (height, width) as the view shows them: (cx, cy, w, h) in [0, 1], and labels.

    Boxes are cut at the border of the crop, and an object with nothing left inside is dropped.
    """
    if view.flip & 1:
        x0, y0, x1, y1 = boxes_xyxy_pixels.T
        boxes_xyxy_pixels = np.stack([size[1] - x1, y0, size[1] - x0, y1], axis=1)
    if view.flip & 2:
        x0, y0, x1, y1 = boxes_xyxy_pixels.T
        boxes_xyxy_pixels = np.stack([x0, size[0] - y1, x1, size[0] - y0], axis=1)
    top, left, height, width = view.crop
    extent = _xyxy(width, height)
    boxes = boxes_xyxy_pixels * _xyxy(view.resize[1] / size[1], view.resize[0] / size[0]) - _xyxy(left, top)
    boxes = np.clip(boxes, 0, extent)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes = boxes[inside] / extent
    boxes = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    return boxes, labels[inside]


def pixels_seen(
    image: UInt8[np.ndarray, "h w 3"], view: View, out: UInt8[np.ndarray, "H W 3"], resize: Resize = exact
) -> None:
    """Fills ``out`` with the image as the view shows it, rounded to 8 bits after each step as in the original."""
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


def _xyxy(x, y) -> Float[np.ndarray, " 4"]:
    """(x, y, x, y), to stand against the corners of boxes."""
    return np.array([x, y, x, y], np.float32)
