"""A folder of images and its COCO annotation files: where they lie, and whether they fit together."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detr_jax.datasets import coco, coco_stream
from detr_jax.datasets.coco_stream import CocoFile, Defect
from detr_jax.errors import UserError
from detr_jax.structures import Categories


class SplitFolder(NamedTuple):
    """Where the images and annotations of one split lie."""

    images: Path
    annotations: Path


class CocoFolder(NamedTuple):
    """One split, read: its annotation file and the file of each of its M images."""

    file: CocoFile
    paths: list[Path]
    defects: list[Defect]  # of the annotation file
    missing: list[Defect]  # images that are listed but not on disk; they are not among the M


def find_splits(root: str | Path) -> dict[str, SplitFolder]:
    """The splits of a COCO or Roboflow folder, by name ("train", "val", "test").

    Known are annotations/instances_{split}[2017].json with the images in {split}[2017]/ or images/{split}[2017]/, and
    {train,valid,test}/_annotations.coco.json with the images beside it. Raises UserError when neither is there.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"--root={root} is not a folder: give the one that holds the images and annotations")
    found = {}
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
    if not found:
        raise UserError(
            f"--root={root} holds neither annotations/instances_train2017.json nor train/_annotations.coco.json: "
            "name your files with --train_images, --train_annotations, --val_images and --val_annotations"
        )
    return found


def open_folder(folder: SplitFolder) -> CocoFolder:
    """Reads the annotations of a split and finds its images. Raises UserError when there is nothing to read."""
    file = coco_stream.scan(folder.annotations)
    if not folder.images.is_dir():
        raise UserError(f"{folder.images} is not a folder: give the one that holds the images of {folder.annotations}")
    paths = [_find_image(folder.images, file_name) for file_name in file.file_names]
    is_there = np.array([path is not None for path in paths])
    missing = [
        Defect(f"image file not found in {folder.images}", f"image {file.image_ids[row]}: {file.file_names[row]}")
        for row in np.flatnonzero(~is_there)
    ]
    defects = coco_stream.find_defects(file)
    return CocoFolder(file.select_images(is_there), [path for path in paths if path], defects, missing)


def _find_image(images: Path, file_name: str) -> Path | None:
    """The file of an image. Some tools write a path into ``file_name`` that only their own machine has."""
    candidates = (images / file_name, images / Path(file_name.replace("\\", "/")).name)
    return next((path for path in candidates if path.is_file()), None)


def refuse_different_categories(tables: dict[str, Categories]) -> None:
    """Raises UserError, which names the differences, unless all splits have the same classes."""
    (first, reference), *others = tables.items()
    for split, table in others:
        differences = coco.compare_categories(reference, table)
        if differences:
            some = ", ".join(differences[:5]) + (", ..." if len(differences) > 5 else "")
            raise UserError(
                f"the categories of {first} and {split} differ ({some}): give both files the same list of categories"
            )


def refuse_defects(path: Path, defects: Iterable[Defect], remedy: str) -> None:
    """Raises UserError for the first kind of defect that stops training: how many, which, what to do."""
    stopping = [defect for defect in defects if defect.stops]
    if stopping:
        same = [defect.where for defect in stopping if defect.kind == stopping[0].kind]
        more = "; ..." if len(same) > 3 else ""
        raise UserError(f"{path}: {stopping[0].kind}: {len(same):,} ({'; '.join(same[:3])}{more}): {remedy}")
