"""Pixels of an image file as they are stored, in RGB; Pillow's are the reference.

JPEG is decoded by simplejpeg, whose pixels are Pillow's and which tells when data are missing: libjpeg fills the rest
with grey, and Pillow says nothing if the file has an end marker. WebP is decoded by OpenCV, whose pixels are Pillow's
and which takes a quarter of the memory.
"""

import re
from collections.abc import Callable

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from detr_jax.image_headers import Header, one_line, open_with_pillow

RGB = UInt8[np.ndarray, "_ _ 3"]
STRIP = 4_000_000  # pixels that are converted at a time, so that a large image is not held several times
HARMLESS = re.compile("unknown JFIF|Unknown Adobe|Invalid SOS parameters|ICC", re.IGNORECASE)  # of libjpeg's warnings
STRAY = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
JUNK = bytes(range(1, 251)) * 4  # holds no marker


def stored_pixels(image: bytes, header: Header, canvas: RGB | None = None) -> RGB:
    """The pixels of an image file with this header, not turned.

    Args:
      canvas: if it is as wide as a JPEG and not lower, the pixels lie in its top rows. The rest of it is not touched.

    Raises ValueError, which says what is wrong with the file.
    """
    if header.format == "JPEG":
        return _decode_jpeg(image, header, canvas)
    if header.format == "WEBP" and header.effort == 1:
        return _decode_webp(image, header)
    return rgb_pixels(header.opened or open_with_pillow(image, header.format))


def _decode_jpeg(image: bytes, header: Header, canvas: RGB | None) -> RGB:
    height, width = header.size
    is_cmyk = header.components == 4
    fits = canvas is not None and canvas.shape[1] == width and canvas.shape[0] >= height and not is_cmyk
    # libjpeg reads the header again: with a buffer of this size it cannot write more than what was asked for.
    buffer = canvas[:height] if fits else np.empty((height, width, 4 if is_cmyk else 3), np.uint8)

    def decode(image: bytes, strict: bool = False) -> np.ndarray:
        space = "CMYK" if is_cmyk else "RGB"
        pixels = simplejpeg.decode_jpeg(image, space, fastdct=False, fastupsample=False, buffer=buffer, strict=strict)
        if pixels.shape != buffer.shape:
            raise ValueError("its header gives its size twice")
        return pixels

    try:
        pixels = _decode_complete(image, decode, header.scans_end)
    except ValueError as error:
        message = one_line(error)
        if "subsampling" in message:  # simplejpeg knows the usual ones only
            return _decode_unusual(image, header)
        early = "premature" in message.lower()
        raise ValueError(f"it is {'truncated' if early else 'damaged'} ({message})") from error
    if not is_cmyk:
        return pixels
    np.subtract(255, pixels, out=pixels)  # Adobe stores it inverted
    return rgb_pixels(Image.frombuffer("CMYK", (width, height), pixels, "raw", "CMYK", 0, 1))


def _decode_complete(image: bytes, decode: Callable[..., np.ndarray], scan: int) -> np.ndarray:
    """Decodes a JPEG whose first scan is at ``scan``. Raises ValueError when libjpeg warns of anything but trifles."""
    try:
        return decode(image, strict=True)
    except ValueError as error:
        message, end = str(error), image.find(b"\xff\xd9", scan)
        stray = STRAY.search(message)
        if stray and end > 0:  # the encoder's padding, unless something else is wrong too
            return decode(image[: end - int(stray[1])] + image[end:], strict=True)
        if HARMLESS.search(message) and _is_complete(lambda file: decode(file).copy(), image, end):
            return decode(image)
        raise


def _decode_unusual(image: bytes, header: Header) -> RGB:
    """A JPEG that only Pillow decodes, without a word about what is missing."""

    def decode(image: bytes) -> RGB:
        pixels = rgb_pixels(open_with_pillow(image, "JPEG"))
        if pixels.shape[:2] != header.size:
            raise ValueError("it is damaged: its header gives its size twice")
        return pixels

    if not _is_complete(decode, image, image.find(b"\xff\xd9", header.scans_end)):
        raise ValueError("it is truncated: data are missing before its end marker")
    return decode(image)


def _is_complete(decode: Callable[[bytes], np.ndarray], image: bytes, end: int) -> bool:
    """Whether a JPEG with its end marker at ``end`` brings data for every pixel.

    Data before the end marker that no pixel needs change nothing; where pixels are missing, they are made of them.
    """
    return end > 0 and np.array_equal(decode(image), decode(image[:end] + JUNK + image[end:]))


def _decode_webp(image: bytes, header: Header) -> RGB:
    try:
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(f"it is truncated or damaged ({one_line(error)})") from error
    if pixels is None or pixels.shape[:2] != header.size:
        raise ValueError("it is truncated or damaged")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def rgb_pixels(image: Image.Image) -> RGB:
    """The pixels of a Pillow image as they are stored, whatever its mode.

    Raises ValueError, which says what is wrong with it.
    """
    try:
        image.load()
        width, height = image.size
        convert = _choose_conversion(image)
        rows = max(1, STRIP // width)
        if rows >= height:
            return convert(image)
        pixels = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            pixels[top:bottom] = convert(image.crop((0, top, width, bottom)))
        return pixels
    except Exception as error:  # as in ``open_with_pillow``
        raise ValueError(f"it is truncated or damaged ({one_line(error)})") from error


def _choose_conversion(image: Image.Image) -> Callable[[Image.Image], RGB]:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return lambda part: _repeat((np.asarray(part) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return _make_scale(image)
    if image.mode == "RGBa":
        return lambda part: np.array(part.convert("RGBA").convert("RGB"))
    return lambda part: np.array(part if part.mode == "RGB" else _drop_transparency(part).convert("RGB"))


def _drop_transparency(image: Image.Image) -> Image.Image:
    """Without the transparent colours of a palette, of which Pillow would warn."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]
    return image


def _make_scale(image: Image.Image) -> Callable[[Image.Image], RGB]:
    """How 32 bit grey becomes 8 bit: by the smallest usual range that holds every value, else by its own range."""
    unsigned = image.format == "TIFF" and image.mode == "I" and image.tag_v2.get(339, 1) in (1, (1,))
    unsigned = unsigned and image.tag_v2.get(258) == (32,)
    dtype = np.uint32 if unsigned else np.float32 if image.mode == "F" else np.int32

    def values(part: Image.Image) -> np.ndarray:
        return np.asarray(part).view(dtype)

    width, height = image.size
    rows, low, high = max(1, STRIP // width), np.inf, -np.inf
    for top in range(0, height, rows):
        part = values(image.crop((0, top, width, min(top + rows, height))))
        part = part[np.isfinite(part)] if image.mode == "F" else part
        if part.size:
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    low, step = (0.0, {1.0: 255.0, 255.0: 1.0, 65535.0: 1 / 256}[top]) if top else (low, 255 / max(high - low, 1e-300))

    def convert(part: Image.Image) -> RGB:
        scaled = np.nan_to_num((values(part).astype(np.float64) - low) * step, nan=0.0, posinf=255.0, neginf=0.0)
        return _repeat(np.clip(scaled if top in (None, 65535.0) else np.round(scaled), 0, 255).astype(np.uint8))

    return convert


def _repeat(grey: UInt8[np.ndarray, "H W"]) -> RGB:
    return np.repeat(grey[:, :, None], 3, axis=2)
