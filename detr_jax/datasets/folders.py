"""A folder of images and its COCO annotation files: where they lie, and whether they fit together."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detr_jax.datasets import coco, coco_stream
from detr_jax.datasets.coco_stream import CocoFile
from detr_jax.datasets.defects import Defect, shown
from detr_jax.datasets.image_paths import match_images
from detr_jax.errors import UserError
from detr_jax.structures import Categories

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


class SplitFolder(NamedTuple):
    """Where the images and annotations of one split lie."""

    images: Path
    annotations: Path
    allow_outside: bool = False  # whether file names may lead out of ``images``
    origin: Path | None = None  # what the annotations were made from, for messages
    defects: tuple[Defect, ...] = ()  # that were found then

    @property
    def source(self) -> Path:
        """What messages call the annotations."""
        return self.origin or self.annotations


class CocoFolder(NamedTuple):
    """One split, read: its annotation file and the file of each of its M images."""

    images: Path
    source: Path  # what messages call the annotations
    file: CocoFile
    paths: list[Path]
    defects: list[Defect]  # of the annotation file and its file names
    missing: list[Defect]  # images that are listed but not on disk; they are not among the M
    is_sound: bool  # whether every annotation belongs to one image and one class


def find_splits(root: str | Path) -> dict[str, SplitFolder]:
    """The splits of a COCO folder, by name ("train", "val", "test").

    Known are annotations/instances_{split}[2017].json with the images in {split}[2017]/ or images/{split}[2017]/, and
    {train,valid,test}/_annotations.coco.json with the images beside it. Empty when neither is there.
    """
    root, found = Path(root).expanduser(), {}
    for split, roboflow in (("train", "train"), ("val", "valid"), ("test", "test")):
        candidates = [
            SplitFolder(images, root / f"annotations/instances_{split}{year}.json")
            for year in ("2017", "")
            for images in (root / f"{split}{year}", root / f"images/{split}{year}")
        ]
        candidates.append(SplitFolder(root / roboflow, root / roboflow / "_annotations.coco.json"))
        annotated = [one for one in candidates if one.annotations.is_file()]
        if annotated:
            found[split] = next((one for one in annotated if one.images.is_dir()), annotated[0])
    return found


def open_folder(folder: SplitFolder) -> CocoFolder:
    """Reads the annotations of a split and finds its images. Raises UserError when there is nothing to read."""
    file = coco_stream.scan(folder.annotations)
    if not folder.images.is_dir():
        raise UserError(f"{folder.images} is not a folder: give the one that holds the images of {folder.source}")
    found = match_images(folder.images, file.file_names, file.image_ids.tolist(), folder.allow_outside)
    is_there = np.array([path is not None for path in found.paths], bool)
    defects = [*folder.defects, *coco_stream.find_defects(file)]
    return CocoFolder(
        images=folder.images,
        source=folder.source,
        file=file.select_images(is_there),
        paths=[path for path in found.paths if path],
        defects=defects + found.defects,
        missing=found.missing,
        is_sound=not any(defect.stops for defect in defects),
    )


def find_unlisted(opened: dict[str, CocoFolder]) -> list[str]:
    """Notes about image files that lie in the folders but are listed in no annotation file, one for each folder."""
    listed = {os.path.normpath(path) for folder in opened.values() for path in folder.paths}
    notes = []
    for images in dict.fromkeys(folder.images for folder in opened.values()):
        root = os.path.normpath(images)
        others = [name for name in _image_names(root) if os.path.join(root, name) not in listed]
        if others:
            some = ", ".join(shown(name) for name in sorted(others)[:3]) + (", ..." if len(others) > 3 else "")
            notes.append(f"{len(others):,} image files in {images} are listed nowhere and left out ({some})")
    return notes


def _image_names(folder: str) -> Iterator[str]:
    """The files below a folder that are called like images."""
    for parent, _, names in os.walk(folder):
        below = "" if parent == folder else os.path.relpath(parent, folder)
        for name in names:
            if name.lower().endswith(SUFFIXES):
                yield os.path.join(below, name)


def merge_classes(tables: dict[str, Categories]) -> Categories:
    """The classes of all splits. A split may list fewer than others.

    Raises UserError, which names the differences, where the tables contradict each other.
    """
    (first, reference), *others = tables.items()
    for split, table in others:
        differences = coco.compare_categories(reference, table)
        if differences:
            some = ", ".join(differences[:5]) + (", ..." if len(differences) > 5 else "")
            raise UserError(
                f"the categories of {first} and {split} differ ({some}): give both files the same list of categories"
            )
        reference = coco.merge_categories([reference, table])
    return reference
