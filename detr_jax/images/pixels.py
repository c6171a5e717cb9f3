"""Pixels of an image file as they are stored, in RGB; Pillow's are the reference.

JPEG is decoded by simplejpeg, whose pixels are Pillow's and which tells when data are missing: libjpeg fills the rest
with grey, and Pillow says nothing if the file has an end marker. WebP is decoded by OpenCV, whose pixels are Pillow's
and which takes a quarter of the memory.
"""

import contextlib
import re
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from detr_jax.images.headers import Header, one_line, open_with_pillow
from detr_jax.images.libtiff import hear_errors
from detr_jax.images.markers import tidy
from detr_jax.images.tags import BITS, SAMPLE_FORMAT

RGB = UInt8[np.ndarray, "_ _ 3"]
STRIP = 1_000_000  # pixels that are converted at a time, so that a large image is not held several times
HARMLESS = re.compile("unknown JFIF|Unknown Adobe|Invalid SOS parameters", re.IGNORECASE)  # of libjpeg's warnings
UNTIDY = re.compile("extraneous bytes before marker 0x(?!d9)|ICC", re.IGNORECASE)  # of what comes before the pixels
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


def check_pixels(image: bytes, header: Header) -> None:
    """Raises ValueError like ``stored_pixels``; in half the time for JPEG: all data are read, few pixels are made."""
    if header.format == "JPEG" and header.components != 4:
        try:
            if simplejpeg.decode_jpeg_header(image)[:2] == header.size:
                simplejpeg.decode_jpeg(image, "GRAY", fastdct=True, min_height=1, min_width=1, min_factor=1)
                return
        except ValueError:
            pass  # the complete decoder tells what it means
    stored_pixels(image, header)


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
        if UNTIDY.search(message) and len(tidied := tidy(image)) < len(image):
            return _decode_complete(tidied, decode, scan + len(tidied) - len(image))
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
        _load(image)
        width, height = image.size
        convert = _choose_conversion(image)
        pixels = np.empty((height, width, 3), np.uint8)
        for top, part in _iterate_strips(image):
            converted = convert(part)
            pixels[top : top + part.height] = converted if converted.ndim == 3 else converted[:, :, None]
        return pixels
    except Exception as error:  # as in ``open_with_pillow``
        raise ValueError(f"it is truncated or damaged ({one_line(error)})") from error


def _load(image: Image.Image) -> None:
    """Makes Pillow decode the image. Raises an error also where Pillow returns what libtiff could not decode."""
    with hear_errors() if image.format == "TIFF" else contextlib.nullcontext() as errors:
        image.load()
    if errors:
        raise ValueError(f"libtiff reports an error in {errors[0]}")


def _iterate_strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(first row, these rows) of an image from top to bottom."""
    width, height = image.size
    rows = max(1, STRIP // width)
    if rows >= height:
        yield 0, image
        return
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


def _choose_conversion(image: Image.Image) -> Callable[[Image.Image], np.ndarray]:
    """Makes RGB [h w 3], or grey [h w], of a strip of the image."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return lambda part: (np.asarray(part) >> 8).astype(np.uint8)
    if image.mode in ("I", "F"):
        return _make_scale(image)
    if image.mode == "RGBa":
        return lambda part: np.asarray(part.convert("RGBA").convert("RGB"))
    if image.mode in ("RGB", "L"):
        return np.asarray
    return lambda part: np.asarray(_drop_transparency(part).convert("RGB"))


def _drop_transparency(image: Image.Image) -> Image.Image:
    """Without the transparent colours of a palette, of which Pillow would warn."""
    if image.mode == "P" and "transparency" in image.info:
        image = image.copy()
        del image.info["transparency"]
    return image


def _make_scale(image: Image.Image) -> Callable[[Image.Image], np.ndarray]:
    """How 32 bit grey becomes 8 bit: by the smallest usual range that holds every value, else by its own range."""
    dtype = np.float32 if image.mode == "F" else np.uint32 if _is_unsigned(image) else np.int32
    low, high, is_finite = np.inf, -np.inf, True
    for _, part in _iterate_strips(image):
        values = np.asarray(part).view(dtype)
        if image.mode == "F" and not np.isfinite(values).all():
            values, is_finite = values[np.isfinite(values)], False
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    factors = {1.0: 255.0, 255.0: 1.0, 65535.0: 1 / 256}  # of each usual range
    top = next((top for top in factors if low >= 0 and high <= top and (top > 1 or image.mode == "F")), None)
    low, factor = (0.0, factors[top]) if top else (low, 255 / max(high - low, 1e-300))
    half = 0.5 if top in (1.0, 255.0) else 0.0  # to the nearest level; 65535 / 256 stays below 256

    def convert(part: Image.Image) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # of NaN that signal
            scaled = np.asarray(part).view(dtype).astype(np.float64)
        scaled -= low
        scaled *= factor
        scaled += half
        if not is_finite:
            np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)

    return convert


def _is_unsigned(image: Image.Image) -> bool:
    """Whether Pillow's signed 32 bit integers are unsigned ones in the file."""
    if image.format != "TIFF" or image.mode != "I":
        return False
    return image.tag_v2.get(BITS) == (32,) and image.tag_v2.get(SAMPLE_FORMAT, (1,)) in (1, (1,))
