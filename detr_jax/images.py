"""What people hold as an image -> RGB pixels, upright as a viewer shows them.

One rule for everything that has no annotations, whether it is a path, the bytes of a file, a Pillow image or an array:

- the EXIF rotation is applied; boxes are found in the image as a viewer shows it;
- transparency is dropped, as ``convert("RGB")`` drops it; palettes, grey and CMYK become RGB;
- 16 bit grey (Pillow's modes I;16 and I) is divided by 256;
- an array is uint8, [H W 3] in the order red, green, blue, or grey [H W].

Images of a dataset are read by ``datasets/decode.py`` instead: there the sizes of the annotations decide.
"""

import io
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from detr_jax.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # of Pillow's many, those that start no other program
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {  # what makes an image of that orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # height and width change places
ACCEPTED = "a path, the bytes of a file, a Pillow image or a uint8 array of shape (height, width, 3)"


@runtime_checkable
class ArrayLike(Protocol):
    """An array of NumPy, JAX or PyTorch."""

    def __array__(self): ...


ImageLike = str | os.PathLike | bytes | bytearray | memoryview | Image.Image | ArrayLike
RGB = UInt8[np.ndarray, "_ _ 3"]


def name_of(image: ImageLike) -> str:
    """What a message calls an image."""
    if isinstance(image, str | os.PathLike):
        return str(image)
    if isinstance(image, Image.Image):
        return getattr(image, "filename", "") or "the Pillow image"
    return "the array" if isinstance(image, ArrayLike) else "the image"


def to_pixels(image: ImageLike) -> RGB:
    """The upright RGB pixels of an image; the rules stand at the top of this file.

    Raises UserError, which names the image and what to do, when it cannot be used.
    """
    try:
        return decode_upright(image)
    except ValueError as error:
        raise UserError(f"{name_of(image)} cannot be used: {error}") from error


def decode_upright(image: ImageLike) -> RGB:
    """Like ``to_pixels``, but raises ValueError with the reason alone."""
    if isinstance(image, Image.Image):
        return _upright(image)
    if isinstance(image, ArrayLike):
        return _check_array(np.asarray(image))
    return _upright(open_image(_read(image)))


def upright_size(image: ImageLike) -> tuple[int, int]:
    """(height, width) of ``decode_upright(image)``; of a file its header alone is read. Raises ValueError alike."""
    if not isinstance(image, Image.Image):
        if isinstance(image, ArrayLike):
            height, width, _ = _check_array(np.asarray(image)).shape
            return height, width
        image = open_image(_read(image))
    width, height = image.size
    turned = image.format != "TIFF" and _orientation(image) in SIDEWAYS  # Pillow turns TIFF by itself
    return (width, height) if turned else (height, width)


def _read(image: str | os.PathLike | bytes | bytearray | memoryview) -> bytes:
    """The bytes of an image file."""
    if not isinstance(image, str | os.PathLike):
        return bytes(image)
    path = Path(image).expanduser()
    if path.is_dir():
        raise ValueError("it is a folder; pass the paths of its images")
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a ValueError of a path with a zero byte
        raise ValueError(f"it cannot be read ({getattr(error, 'strerror', None) or error})") from error


def open_image(file: bytes) -> Image.Image:
    """Opens the bytes of an image file; its header is read. Raises ValueError, which says what is wrong with it."""
    if not file:
        raise ValueError("the file is empty")
    try:
        return Image.open(io.BytesIO(file), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise ValueError(f"it is not an image (it starts with {file[:8]!r})") from None
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise ValueError(f"it cannot be opened ({error})") from error


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ORIENTATION, 1)
    except Exception:  # damaged EXIF: the image is shown as it is stored
        return 1


def _upright(image: Image.Image) -> RGB:
    try:
        image.load()  # turns TIFF, and removes its orientation
    except Exception as error:  # as in open_image
        raise ValueError(f"it is truncated or damaged ({error})") from error
    turn = TURNS.get(_orientation(image))
    return rgb_pixels(image if turn is None else image.transpose(turn))


def rgb_pixels(image: Image.Image) -> RGB:
    """The pixels of a Pillow image as they are stored, whatever its mode. Raises ValueError."""
    if image.mode == "F":
        raise ValueError("it has 32 bit float pixels (mode F), whose range is not known; convert it to 8 bit")
    try:
        if image.mode.startswith("I"):  # Pillow would clip 16 bit grey to white instead of scaling it
            grey = np.clip(np.asarray(image).astype(np.int64), 0, 0xFFFF) >> 8
            image = Image.fromarray(grey.astype(np.uint8))
        return np.array(image.convert("RGB"))
    except Exception as error:  # as in open_image
        raise ValueError(f"it is truncated or damaged ({error})") from error


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
