"""Bytes of an image file -> RGB pixels, the same on every machine.

Pillow is the reference: the original DETR reads with ``Image.open(path).convert("RGB")``. JPEG files are decoded by
simplejpeg, whose pixels are identical; what it refuses (CMYK, another format, a damaged file) goes to Pillow.
"""

import io

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's others include some that start programs


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
        pixels = _pillow_pixels(_open(image))
    if size is None or pixels.shape[:2] == tuple(size):
        return pixels
    upright = _pillow_pixels(ImageOps.exif_transpose(_open(image)))
    if upright.shape[:2] == tuple(size):
        return upright
    raise ValueError(f"it is {pixels.shape[1]}x{pixels.shape[0]} pixels, its annotations say {size[1]}x{size[0]}")


def image_size(image: bytes) -> tuple[int, int]:
    """(height, width) of an image file from its header alone, EXIF rotation ignored. Raises ValueError."""
    width, height = _open(image).size
    return height, width


def _open(image: bytes) -> Image.Image:
    if not image:
        raise ValueError("the file is empty")
    try:
        return Image.open(io.BytesIO(image), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise ValueError(f"it is not an image (it starts with {image[:8]!r})") from None
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise ValueError(f"it cannot be opened ({error})") from error


def _pillow_pixels(opened: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    try:
        if opened.mode.startswith("I;16"):  # Pillow would clip 16 bit grey to white instead of scaling it
            opened = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
        return np.array(opened.convert("RGB"))
    except Exception as error:  # as in _open
        raise ValueError(f"it is truncated or damaged ({error})") from error
