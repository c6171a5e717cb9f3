"""The files that the images of an annotation file mean: below the folder of images, each for one image."""

import functools
import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

from detr_jax.datasets import defects
from detr_jax.datasets.defects import Culprits, Defect, shorten


class FoundImages(NamedTuple):
    """The file of each image; None where there is none that is this image's alone."""

    paths: list[Path | None]
    defects: list[Defect]  # file names that lead out of the folder, or that two images share
    missing: list[Defect]  # images without a file of their own


class _Claim(NamedTuple):
    """The file that one image claims."""

    path: Path
    is_listed: bool  # under the path that is listed; otherwise it has the same base name only


def match_images(images: Path, file_names: list[str], image_ids: list[int], allow_outside: bool = False) -> FoundImages:
    """Finds the file of every image.

    A file name is a path below ``images``. Some tools write a path that only their own machine has; then the file of
    that base name is taken, unless another image claims it too.

    Args:
      images: the folder of images.
      file_names: of the images, as they are listed.
      image_ids: what messages call them.
      allow_outside: take files outside of ``images`` too: by absolute paths, by ``..`` or by symbolic links.
    """
    find = _Finder(images, allow_outside)
    missing, others = Culprits(), Culprits()
    claims: list[_Claim | None] = []
    for name, image_id in zip(file_names, image_ids, strict=True):
        try:
            claims.append(find(name))
        except _Outside as outside:
            claims.append(None)
            others.add(defects.OUTSIDE, f"image {image_id}: {shorten(name)} is {shorten(str(outside))}")
        else:
            if claims[-1] is None:
                missing.add(defects.MISSING, f"image {image_id}: {shorten(name)}")
    _settle(claims, file_names, image_ids, missing, others)
    return FoundImages([claim and claim.path for claim in claims], others.defects(), missing.defects())


class _Outside(Exception):
    """A file that lies outside of the folder; its path."""


class _Finder:
    def __init__(self, images: Path, allow_outside: bool):
        self._images, self._allow_outside = images, allow_outside
        self._root = os.path.join(os.path.realpath(images), "")
        self._real_folder = functools.cache(os.path.realpath)

    def __call__(self, name: str) -> _Claim | None:
        """Raises _Outside."""
        portable = name.replace("\\", "/")
        forms = (unicodedata.normalize(form, portable) for form in ("NFC", "NFD"))  # macOS writes ü as two characters
        for listed in dict.fromkeys((name, portable, *forms)):
            if self._is_ours(path := os.path.join(self._images, listed)):
                return _Claim(Path(path), is_listed=True)
        base = os.path.basename(portable)
        if base and self._is_ours(path := os.path.join(self._images, base)):
            return _Claim(Path(path), is_listed=False)
        return None

    def _is_ours(self, path: str) -> bool:
        if not os.path.isfile(path):  # also False of names that no file can have
            return False
        folder, base = os.path.split(path)
        real = os.path.realpath(path) if os.path.islink(path) else os.path.join(self._real_folder(folder), base)
        if not self._allow_outside and not real.startswith(self._root):
            raise _Outside(real)
        return True


def _settle(
    claims: list[_Claim | None], file_names: list[str], image_ids: list[int], missing: Culprits, others: Culprits
) -> None:
    """Takes a file away from images that share it by its base name only, and says which images share one rightly."""
    of_file: dict[str, list[int]] = {}
    for row, claim in enumerate(claims):
        if claim is not None:
            of_file.setdefault(os.path.normpath(claim.path), []).append(row)
    for rows in of_file.values():
        if len(rows) == 1:
            continue
        names = {file_names[row].replace("\\", "/") for row in rows if not claims[row].is_listed}
        has_owner = any(claims[row].is_listed for row in rows)
        path = claims[rows[0]].path
        if names and (has_owner or len(names) > 1):
            for row in [row for row in rows if not claims[row].is_listed]:
                rivals = next(other for other in rows if other != row)
                where = f"image {image_ids[row]}: {shorten(file_names[row])}, like image {image_ids[rivals]}"
                missing.add(defects.SAME_BASE_NAME, f"{where}, would be {shorten(str(path))}")
                claims[row] = None
        remaining = [row for row in rows if claims[row] is not None]
        for row in remaining[1:]:
            where = f"image {image_ids[row]} has {shorten(file_names[row])}, as image {image_ids[remaining[0]]} has"
            others.add(defects.SAME_FILE, where, stops=False)
