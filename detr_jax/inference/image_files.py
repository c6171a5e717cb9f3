"""Images without annotations, as a split that takes the same way to the model as a dataset."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detr_jax.batches.augmentation import apply_to_pixels
from detr_jax.batches.inputs import Objects, PixelReader, clear_margins
from detr_jax.errors import UserError
from detr_jax.images import ACCEPTED, RGB, ImageLike, decode_upright, name_of, upright_size
from detr_jax.structures import Bucket, Pixels, View

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class ImageFiles:
    """Images as people pass them (see ``images.py``): paths, bytes, Pillow images, arrays, in any mixture.

    ``image_files[i]`` are the upright pixels of the i-th; files are read when they are asked for. Raises UserError,
    which names the image, when one cannot be used.

    Attributes:
      image_ids: 0, 1, 2, ...
      sizes: int32 [M 2], (height, width) of the images upright.
      target_counts: zeros.
    """

    name = "the input"

    def __init__(self, given: Sequence[Any]):
        # Pillow images are decoded here: they read their files lazily, and two threads cannot share one.
        self._images = [
            image if isinstance(image, str | Path | bytes) else _decode(image, number, len(given))
            for number, image in enumerate(given)
        ]
        sizes = [_call(upright_size, image, number, len(given)) for number, image in enumerate(self._images)]
        self.image_ids = np.arange(len(given))
        self.sizes = np.array(sizes, np.int32).reshape(-1, 2)
        self.target_counts = np.zeros(len(given), np.int32)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> RGB:
        return _call(decode_upright, self._images[index], index, len(self))


def _decode(image: Any, number: int, count: int) -> RGB:
    if not isinstance(image, ImageLike):
        raise UserError(f"image {number} is of type {type(image).__name__}; pass {ACCEPTED}")
    return _call(decode_upright, image, number, count)


def _call(function, image: ImageLike, number: int, count: int):
    """``function(image)``, with a UserError that names the image in place of its ValueError."""
    try:
        return function(image)
    except ValueError as error:
        name = name_of(image)
        if count > 1 and not isinstance(image, str | Path):
            name = f"image {number} ({name})"
        raise UserError(f"{name} cannot be used: {error}") from error


class UprightReader:
    """Reads ``ImageFiles`` for a ``Pipeline``; the ``Reader`` of images that have no annotations."""

    def empty(self, bucket: Bucket, rows: int) -> Pixels:
        """Canvases of the bucket's shape."""
        return PixelReader().empty(bucket, rows)

    def read(self, images: ImageFiles, index: int, view: View, bucket: Bucket, inputs: Pixels, row: int) -> Objects:
        """See ``Reader``."""
        (height, width), canvas = (int(side) for side in view.size), inputs.pixels[row]
        apply_to_pixels(images[index], view, canvas[:height, :width])
        clear_margins(canvas, height, width)
        inputs.sizes[row] = height, width
        return np.zeros((0, 4)), np.zeros(0, np.int32)


def find_images(inputs: list[str]) -> list[Path]:
    """The image files that paths, folders (searched through) and glob patterns name, in order, each once.

    Raises UserError for an input that names nothing.
    """
    found: dict[Path, None] = {}
    for entry in inputs:
        path = Path(entry).expanduser()
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file())
        if not matches:
            raise UserError(f"--input={entry} names no image: pass a file, a folder that holds images, or a pattern")
        found.update(dict.fromkeys(matches))
    return list(found)


def readable(paths: Iterable[Path]) -> tuple[list[Path], dict[Path, str]]:
    """The files that can be decoded, and the others with the reason."""
    good, bad = [], {}
    for path in paths:
        try:
            decode_upright(path)
            good.append(path)
        except ValueError as error:
            bad[path] = str(error)
    return good, bad
