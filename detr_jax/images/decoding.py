"""What people hold as an image -> RGB pixels: the one decoder of every program.

One rule for datasets, training, evaluation, ``predict`` and Python, whether an image is a path, the bytes of a file, a
Pillow image or an array:

- An image is seen as a viewer shows it: its EXIF orientation is applied. Only if annotations state a size that the
  stored image has and the upright one does not, it is seen as it is stored.
- Nothing is decoded before its header was asked: more pixels or bytes than ``Limits`` allow are refused.
- Of animated and multi-page files the first frame is taken; ``probe`` tells how many there are.
- Transparency is dropped, as ``convert("RGB")`` drops it; palettes, grey, CMYK and YCbCr become RGB.
- 16 bit integers are divided by 256. 32 bit integers and floats are scaled from the smallest of the ranges 0 to 1
  (floats), 0 to 255 and 0 to 65535 that holds all values, else from their own least and greatest value; NaN is black.
- What is truncated or damaged is refused: half an image is none.
- An array is uint8, [H W 3] in the order red, green, blue, or grey [H W].

Formats: JPEG, PNG, WebP, BMP, GIF, TIFF and PPM, whatever the file is called.
"""

import os
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from detr_jax.errors import UserError
from detr_jax.images.headers import Header, count_frames, read_header
from detr_jax.images.pixels import RGB, check_pixels, rgb_pixels, stored_pixels

SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange height and width
ACCEPTED = "a path, the bytes of a file, a Pillow image or a uint8 array of shape (height, width, 3)"


class Limits(NamedTuple):
    """How large an image file may be; ``data.image_limits``."""

    pixels: int = 100_000_000
    bytes: int = 500_000_000


LIMITS = Limits()


class ImageInfo(NamedTuple):
    """What the header of an image file says."""

    format: str  # "JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"
    stored_size: tuple[int, int]  # (height, width)
    upright_size: tuple[int, int]  # with its EXIF orientation applied
    orientation: int  # of EXIF, 1 to 8; 1 is upright
    frames: int  # pictures of an animated or multi-page file; the first is used

    @property
    def is_ambiguous(self) -> bool:
        """Whether it is turned or mirrored and yet has the same size: annotations cannot tell how they saw it."""
        return self.orientation != 1 and self.stored_size == self.upright_size


@runtime_checkable
class ArrayLike(Protocol):
    """An array of NumPy, JAX or PyTorch."""

    def __array__(self): ...


ImageLike = str | os.PathLike | bytes | bytearray | memoryview | Image.Image | ArrayLike


def name_of(image: ImageLike) -> str:
    """What a message calls an image."""
    if isinstance(image, str | os.PathLike):
        return str(image)
    if isinstance(image, Image.Image):
        return getattr(image, "filename", "") or "the Pillow image"
    return "the array" if isinstance(image, ArrayLike) else "the image"


def to_pixels(image: ImageLike, limits: Limits = LIMITS) -> RGB:
    """The upright RGB pixels of an image; the rules stand at the top of this file.

    Raises UserError, which names the image and what to do, when it cannot be used.
    """
    try:
        return decode_upright(image, limits)
    except ValueError as error:
        raise UserError(f"{name_of(image)} cannot be used: {error}") from error


def decode_upright(image: ImageLike, limits: Limits = LIMITS) -> RGB:
    """Like ``to_pixels``, but raises ValueError with the reason alone."""
    if isinstance(image, Image.Image):
        orientation = _orientation_of(image)  # before the pixels are loaded: Pillow then turns TIFF by itself
        _check_size(image.size[::-1], 1, limits)
        pixels = rgb_pixels(image)
        return pixels if image.format == "TIFF" else _turn(pixels, orientation)
    if isinstance(image, ArrayLike):
        return _check_array(np.asarray(image))
    return decode(read_file(image, limits), limits=limits)


def upright_size(image: ImageLike, limits: Limits = LIMITS) -> tuple[int, int]:
    """(height, width) of ``decode_upright(image)``; of a file its header alone is read. Raises ValueError alike."""
    if isinstance(image, Image.Image):
        orientation = 1 if image.format == "TIFF" else _orientation_of(image)
        _check_size(image.size[::-1], 1, limits)
        return _turned_size(image.size[::-1], orientation)
    if isinstance(image, ArrayLike):
        height, width, _ = _check_array(np.asarray(image)).shape
        return height, width
    return image_size(read_file(image, limits), limits=limits)


def decode(
    image: bytes, size: tuple[int, int] | None = None, canvas: RGB | None = None, limits: Limits = LIMITS
) -> RGB:
    """The pixels of an image file.

    Args:
      size: the (height, width) that annotations refer to; None when they do not say. The image is upright, unless only
        the stored one has this size.
      canvas: if it is as wide as a JPEG and not lower, the pixels lie in its top rows, unless the image is turned. The
        rest of it is not touched.

    Raises ValueError, which says what is wrong with the file, or that it has neither way the stated size.
    """
    header, orientation = _look(bytes(image), size, limits)
    return _turn(stored_pixels(bytes(image), header, canvas if orientation == 1 else None), orientation)


def examine(
    image: bytes, size: tuple[int, int] | None = None, limits: Limits = LIMITS, quick: bool = False
) -> tuple[ImageInfo, tuple[int, int]]:
    """What the header says, and (height, width) of ``decode(image, size)``. Raises ValueError alike.

    All data of the file are read, unless ``quick``.
    """
    image = bytes(image)
    header, orientation = _look(image, size, limits)
    info = _describe(image, header)
    if not quick:
        check_pixels(image, header)
    return info, _turned_size(header.size, orientation)


def image_size(image: bytes, size: tuple[int, int] | None = None, limits: Limits = LIMITS) -> tuple[int, int]:
    """(height, width) of ``decode(image, size)``, from the header alone. Raises ValueError alike."""
    header, orientation = _look(bytes(image), size, limits)
    return _turned_size(header.size, orientation)


def probe(image: bytes, limits: Limits = LIMITS) -> ImageInfo:
    """What the header says of an image file; nothing is decoded. Raises ValueError when it is none, or too large."""
    header, _ = _look(bytes(image), None, limits)
    return _describe(bytes(image), header)


def read_file(image: str | os.PathLike | bytes | bytearray | memoryview, limits: Limits = LIMITS) -> bytes:
    """The bytes of an image file, of which there may be so many. Raises ValueError."""
    if not isinstance(image, str | os.PathLike):
        return bytes(image)
    path = Path(image).expanduser()
    try:
        if path.is_dir():
            raise ValueError("it is a folder; pass the paths of its images")
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        _check_bytes(path.stat().st_size, limits)
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError("it cannot be read (a zero byte in the path)") if "null" in str(error) else error from None


def _describe(image: bytes, header: Header) -> ImageInfo:
    upright = _turned_size(header.size, header.orientation)
    return ImageInfo(header.format, header.size, upright, header.orientation, count_frames(image, header))


def _look(image: bytes, size: tuple[int, int] | None, limits: Limits) -> tuple[Header, int]:
    """The header, and the orientation that the image is to be seen in."""
    _check_bytes(len(image), limits)
    header = read_header(image)
    _check_size(header.size, header.effort, limits)
    upright = _turned_size(header.size, header.orientation)
    if size is None or tuple(size) == upright:
        return header, header.orientation
    if tuple(size) == header.size:
        return header, 1
    raise ValueError(f"it is {upright[1]}x{upright[0]} pixels, its annotations say {size[1]}x{size[0]}")


def _check_bytes(count: int, limits: Limits) -> None:
    if count > limits.bytes:
        raise ValueError(f"it has {count:,} bytes, more than the limit of {limits.bytes:,} (image_limits)")


def _check_size(size: tuple[int, int], effort: int, limits: Limits) -> None:
    height, width = size
    if height * width * effort > limits.pixels:
        kind = f"pixels of a kind that takes {effort} times the memory or time" if effort > 1 else "pixels"
        raise ValueError(f"it has {width}x{height} {kind}, more than the limit of {limits.pixels:,} (image_limits)")


def _orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a Pillow image. It reads EXIF as Pillow does: from a file that Pillow has opened."""
    try:
        value = image.getexif().get(274, 1)
    except Exception:  # damaged EXIF: the image is shown as it is stored
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size[::-1] if orientation in SIDEWAYS else size


def _turn(pixels: RGB, orientation: int) -> RGB:
    """Makes an image of this EXIF orientation upright."""
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _check_array(array: np.ndarray) -> RGB:
    """The array as [H W 3]. Raises ValueError, which says what to do, for anything but 8 bit RGB or grey."""
    shape = array.shape
    if array.dtype != np.uint8:
        change = "(255 * image).astype(np.uint8) if 1 is white" if array.dtype.kind == "f" else "image.astype(np.uint8)"
        raise ValueError(f"it has dtype {array.dtype}; pass uint8 from 0 to 255, for example {change}")
    if 0 in shape:
        raise ValueError(f"it is empty (shape {shape})")
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim == 3 and shape[2] == 3:
        return np.ascontiguousarray(array)
    advice = "pass (height, width, 3) or (height, width)"
    if array.ndim == 3 and shape[2] == 4:
        advice = "drop the transparency: image[:, :, :3]"
    elif array.ndim == 3 and shape[2] == 1:
        advice = "drop the last axis: image[:, :, 0]"
    elif array.ndim == 3 and shape[0] in (1, 3, 4):
        advice = "move the channels to the end: image.transpose(1, 2, 0)"
    elif array.ndim == 4:
        advice = "pass a batch as a list: list(images)"
    raise ValueError(f"it has shape {shape}; {advice}")
