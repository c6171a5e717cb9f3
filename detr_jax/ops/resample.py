"""From the pixels of a photo to the numbers a backbone was trained on; runs on the device, inside the jitted step.

A photo as it was read (``Batch.views``) is looked at first: flip, resize, crop and resize are linear and work on each
axis alone, so together they are one product, ``rows @ photo @ columns.T``, of matrices that follow from the view.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, UInt8

from detr_jax.models.resnet import keep
from detr_jax.structures import Array, Batch, View

# ImageNet's mean and standard deviation per colour, as in torchvision.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(images: UInt8[Array, "B H W 3"], sizes: Int[Array, "B 2"], dtype) -> Float[Array, "B H W 3"]:
    """Images with ImageNet's mean 0 and deviation 1, zero outside the real image."""
    scale = jnp.asarray([1 / (255 * deviation) for deviation in STD], jnp.float32)
    shift = jnp.asarray([-mean / deviation for mean, deviation in zip(MEAN, STD, strict=True)], jnp.float32)
    normal = images.astype(jnp.float32) * scale[None, None, None] + shift[None, None, None]
    return keep(normal, sizes).astype(dtype)


def seen(batch: Batch, canvas: tuple[int, int] | None, crop_max: int) -> Batch:
    """The batch as its views show it (``resample``); one without views, which needs no ``canvas``, as it is."""
    if batch.views is None:
        return batch
    images = resample(batch.images, batch.sizes, batch.views, canvas, crop_max)
    return batch._replace(images=images, sizes=batch.views.size, views=None)


def resample(
    photos: UInt8[Array, "B h w 3"], sizes: Int[Array, "B 2"], views: View, canvas: tuple[int, int], crop_max: int
) -> UInt8[Array, "B H W 3"]:
    """The photos, of these sizes in the corner of their canvas, as the views show them; zero outside ``views.size``.

    Geometry and antialiasing are Pillow's (``Image.resize``, bilinear); rounding to 8 bits happens once instead of
    after each pass, so a resize is at most one level from Pillow's. Products are float32 on every device.

    Args:
      canvas: (H, W), which hold every ``views.size``.
      crop_max: the most pixels a side of a crop has, unless it is the whole photo.
    """

    def weights(axis: int) -> Float[Array, "B side photo_side"]:
        photo_side = photos.shape[1 + axis]
        of_one = partial(
            _axis_weights, photo_side=photo_side, between_side=max(photo_side, crop_max), canvas_side=canvas[axis]
        )
        flip = views.flip >> (1 - axis) & 1
        start, extent = views.crop[:, axis], views.crop[:, 2 + axis]
        return jax.vmap(of_one)(sizes[:, axis], flip, views.resize[:, axis], start, extent, views.size[:, axis])

    levels = jnp.einsum(
        "BHh,Bhwc,BWw->BHWc", weights(0), photos.astype(jnp.float32), weights(1), precision=jax.lax.Precision.HIGHEST
    )
    return jnp.floor(levels + 0.5).astype(jnp.uint8)


def _axis_weights(length, flip, resized, start, extent, size, photo_side: int, between_side: int, canvas_side: int):
    """What each pixel of a canvas takes from each pixel of a photo, along one axis: [canvas side, photo side].

    ``length`` pixels of the photo are real; they are flipped or not, resized to ``resized``, cut from ``start`` on to
    ``extent``, and resized to ``size``.
    """
    pixels = jnp.arange(photo_side)
    pixels = jnp.where(flip == 1, length - 1 - pixels, pixels)
    between = jnp.arange(between_side)
    first = _interpolation(pixels, length, start + between, resized)
    second = _interpolation(between, extent, jnp.arange(canvas_side), size)
    return jnp.matmul(second, first, precision=jax.lax.Precision.HIGHEST)


def _interpolation(sources: Int[Array, " n"], length, targets: Int[Array, " m"], resized) -> Float[Array, "m n"]:
    """Weights of the sources in each target where ``length`` pixels become ``resized``: triangles that sum to 1.

    The distance between the centres of two pixels, (target + 1/2) length / resized - (source + 1/2), is counted in
    parts of 2 resized, which makes it a whole number. A triangle reaches as far as max(length / resized, 1).
    """
    distance = jnp.abs((2 * targets[:, None] + 1) * length - (2 * sources[None] + 1) * resized)
    weights = jnp.maximum(1 - distance / (2 * jnp.maximum(length, resized)), 0)
    real = ((sources >= 0) & (sources < length))[None] & (targets < resized)[:, None]
    weights = jnp.where(real, weights, 0)
    return weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 0.25)  # a real target's sum is at least a half
