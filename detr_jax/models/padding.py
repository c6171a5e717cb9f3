"""Which cells of a feature map belong to the image, and zeros on all others.

An image lies in the top left corner of a larger canvas. Its ``extent`` is its real (height, width) in cells of a
feature map; at the resolution of the pixels that is its size. Zeros outside it, set before each convolution wider than
1x1 and before the pool, are the zero padding that the image alone would see: the canvas does not matter.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from detr_jax.structures import Array


def shrink(extent: Int[Array, "B 2"], stride: int) -> Int[Array, "B 2"]:
    """The extent after this stride, a power of 2: halves, rounded up as by convolutions with symmetric padding."""
    for _ in range(stride.bit_length() - 1):
        extent = (extent + 1) >> 1  # `>> 1` compiles to far fewer operations than `// 2`
    return extent


def valid_cells(extent: Int[Array, "B 2"], h: int, w: int) -> Bool[Array, "B h w"]:
    """True for the cells of an h x w map that belong to the image."""
    rows = jnp.arange(h)[None, :, None] < extent[:, 0, None, None]
    columns = jnp.arange(w)[None, None, :] < extent[:, 1, None, None]
    return rows & columns


def clear_padding(x: Float[Array, "B h w C"], extent: Int[Array, "B 2"]) -> Float[Array, "B h w C"]:
    """``x`` with zeros outside the image."""
    return x * valid_cells(extent, x.shape[1], x.shape[2])[..., None].astype(x.dtype)
