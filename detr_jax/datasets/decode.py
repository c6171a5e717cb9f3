"""Bytes of an image file -> RGB pixels, the same on every machine.

Pillow is the reference: the original DETR reads with ``Image.open(path).convert("RGB")``. JPEG files are decoded by
simplejpeg, whose pixels are identical; what it refuses (CMYK, another format, a damaged file) goes to Pillow.
"""

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import ImageOps

from detr_jax.images import open_image, rgb_pixels


def decode(
    image: bytes, size: tuple[int, int] | None = None, canvas: UInt8[np.ndarray, "H W 3"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a JPEG, PNG, WebP, BMP, GIF, TIFF or PPM file.

    Args:
      size: the (height, width) that the annotations refer to. The EXIF rotation is ignored, as in the original, unless
        only the rotated image has this size.
      canvas: if it is as wide as a JPEG and not lower, the pixels lie in its top rows. The rest of it is not touched.

    Raises ValueError, which says what is wrong with the file.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(image)
        if colors not in ("YCbCr", "RGB", "Gray"):
            raise ValueError("CMYK, which simplejpeg and Pillow convert differently")
        fits = canvas is not None and canvas.shape[1] == width and canvas.shape[0] >= height
        buffer = canvas[:height] if fits else None
        pixels = simplejpeg.decode_jpeg(image, "RGB", fastdct=False, fastupsample=False, buffer=buffer, strict=True)
    except ValueError:
        pixels = rgb_pixels(open_image(image))
    if size is None or pixels.shape[:2] == tuple(size):
        return pixels
    upright = rgb_pixels(ImageOps.exif_transpose(open_image(image)))
    if upright.shape[:2] == tuple(size):
        return upright
    raise ValueError(f"it is {pixels.shape[1]}x{pixels.shape[0]} pixels, its annotations say {size[1]}x{size[0]}")


def image_size(image: bytes) -> tuple[int, int]:
    """(height, width) of an image file from its header alone, EXIF rotation ignored. Raises ValueError."""
    width, height = open_image(image).size
    return height, width
