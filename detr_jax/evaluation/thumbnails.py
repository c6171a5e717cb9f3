"""Small copies of photos for a page, within a number of bytes; a photo that is missing or broken costs only itself."""

import io
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from detr_jax import names
from detr_jax.images import decoding

MOST = 240  # pictures
MOST_BYTES = 6_500_000  # of all of them together
FEW, SIDES = 120, (640, 480)  # the longer side in pixels: of up to so many pictures, of more
QUALITY = 72  # 30 kB for a photo of 480 pixels, 1 ms; WebP has 21 kB and takes 8


class Thumbnails(NamedTuple):
    """The copies as JPEG files by the number of their image, and why others have none."""

    pictures: dict[int, bytes]
    problems: dict[int, str]


def make_thumbnails(folder: Path, wanted: dict[int, tuple[str, tuple[float, float]]]) -> Thumbnails:
    """Copies photos in the given order until there are enough.

    Args:
      folder: where the photos are.
      wanted: by number, the file name below the folder and the (height, width) in which boxes are given; not finite
        where that is not known.
    """
    pictures, problems, used = {}, {}, 0
    side = SIDES[min(len(wanted), MOST) > FEW]
    bar = tqdm(wanted.items(), "photos", min(len(wanted), MOST), unit=" photos", disable=None, leave=False)
    for number, (name, size) in bar:
        try:
            picture = encode(_shrink(_read(folder, name, size), side))
        except (ValueError, OSError) as error:
            problems[number] = f"{names.legible(name)}: {error}"
            continue
        if used + len(picture) > MOST_BYTES or len(pictures) == MOST:
            break
        pictures[number] = picture
        used += len(picture)
    bar.close()
    return Thumbnails(pictures, problems)


def _read(folder: Path, name: str, size: tuple[float, float]) -> UInt8[np.ndarray, "H W 3"]:
    """The photo as its annotations see it. Raises ValueError when it cannot be used."""
    path = folder / name
    if not name or not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError("is not below the folder of the photos")
    if not path.is_file():
        raise ValueError("does not exist")
    known = np.isfinite(size).all()
    return decoding.decode(decoding.read_file(path), (int(size[0]), int(size[1])) if known else None)


def _shrink(pixels: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    scale = min(1.0, side / max(pixels.shape[:2]))
    size = [max(1, round(length * scale)) for length in pixels.shape[1::-1]]
    return pixels if scale == 1.0 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def encode(pixels: UInt8[np.ndarray, "h w 3"], quality: int = QUALITY) -> bytes:
    """A picture as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return file.getvalue()
