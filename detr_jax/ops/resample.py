"""Photos as their views show them: flip, resize, crop and resize on the device, inside the jitted step.

The four are linear and act on each axis alone, so together they are one product, ``rows @ photo @ columns.T``, of
matrices that follow from the view.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from detr_jax.structures import Array, Photos, Pixels


def resample(photos: Photos) -> Pixels:
    """The photos as their views show them, each in the top left corner of a canvas of zeros.

    Geometry and antialiasing are Pillow's (``Image.resize``, bilinear). Rounding to 8 bits happens once instead of
    after each pass, so a resize is at most one level from Pillow's. Products are float32 on every device.
    """
    images, views = photos.pixels, photos.views

    def weights(axis: int) -> Float[Array, "B side photo_side"]:
        photo_side = images.shape[1 + axis]
        weights_of_one = partial(
            _axis_weights,
            photo_side=photo_side,
            resized_side=max(photo_side, photos.crop_max),
            canvas_side=photos.canvas[axis],
        )
        flip = views.flip >> (1 - axis) & 1
        crop = views.crop[:, axis::2]  # (start, length)
        return jax.vmap(weights_of_one)(photos.sizes[:, axis], flip, views.resize[:, axis], crop, views.size[:, axis])

    levels = jnp.einsum(
        "BHh,Bhwc,BWw->BHWc", weights(0), images.astype(jnp.float32), weights(1), precision=jax.lax.Precision.HIGHEST
    )
    return Pixels(jnp.floor(levels + 0.5).astype(jnp.uint8), views.size)


def _axis_weights(
    length, flip, resized, crop: Int[Array, " 2"], size, *, photo_side: int, resized_side: int, canvas_side: int
) -> Float[Array, "canvas_side photo_side"]:
    """The weight of each pixel of a photo in each pixel of a canvas, along one axis.

    ``length`` pixels of the photo are real. They are flipped if ``flip`` is 1, resized to ``resized``, cropped to
    ``crop``, a start and a length, and resized to ``size``.
    """
    pixels = jnp.arange(photo_side)
    pixels = jnp.where(flip == 1, length - 1 - pixels, pixels)
    cropped = jnp.arange(resized_side)
    first = _interpolation(pixels, length, crop[0] + cropped, resized)
    second = _interpolation(cropped, crop[1], jnp.arange(canvas_side), size)
    return jnp.matmul(second, first, precision=jax.lax.Precision.HIGHEST)


def _interpolation(sources: Int[Array, " n"], length, targets: Int[Array, " m"], resized) -> Float[Array, "m n"]:
    """Weights of the sources in each target where ``length`` pixels become ``resized``: triangles that sum to 1.

    The distance between two pixel centres, (target + 1/2) length / resized - (source + 1/2), is computed times
    2 resized, which makes it a whole number. A triangle reaches as far as max(length / resized, 1).
    """
    distance = jnp.abs((2 * targets[:, None] + 1) * length - (2 * sources[None] + 1) * resized)
    weights = jnp.maximum(1 - distance / (2 * jnp.maximum(length, resized)), 0)
    real = ((sources >= 0) & (sources < length))[None] & (targets < resized)[:, None]
    weights = jnp.where(real, weights, 0)
    return weights / jnp.maximum(weights.sum(axis=1, keepdims=True), 0.25)  # a real target's sum is at least a half
