"""A folder of images and its COCO annotation files: where they lie, and whether they fit together."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detr_jax.datasets import coco_stream as coco_columns, coco as coco_json
from detr_jax.datasets.coco_stream import CocoFile, Defect
from detr_jax.errors import UserError


class Source(NamedTuple):
    """Where one split comes from."""

    images: Path
    annotations: Path


class CocoFolder(NamedTuple):
    """One split: its annotation file and the file of each of its M images."""

    coco: CocoFile
    paths: list[Path]
    defects: list[Defect]  # of the annotation file
    missing: list[Defect]  # images that are listed but not on disk; they are not among the M


def find_sources(root: str | Path) -> dict[str, Source]:
    """The splits of a COCO or Roboflow folder, by name ("train", "val", "test").

    Known are annotations/instances_{split}[2017].json with the images in {split}[2017]/ or images/{split}[2017]/, and
    {train,valid,test}/_annotations.coco.json with the images beside it. ``UserError`` when neither is there.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"--root={root} is not a folder: give the one that holds the images and annotations")
    sources = {}
    for split, roboflow in (("train", "train"), ("val", "valid"), ("test", "test")):
        candidates = [
            Source(images, root / f"annotations/instances_{split}{year}.json")
            for year in ("2017", "")
            for images in (root / f"{split}{year}", root / f"images/{split}{year}")
        ]
        candidates.append(Source(root / roboflow, root / roboflow / "_annotations.coco.json"))
        annotated = [source for source in candidates if source.annotations.is_file()]
        if annotated:
            sources[split] = next((source for source in annotated if source.images.is_dir()), annotated[0])
    if not sources:
        raise UserError(
            f"--root={root} holds neither annotations/instances_train2017.json nor train/_annotations.coco.json: "
            "name your files with --train_images, --train_annotations, --val_images and --val_annotations"
        )
    return sources


def open_source(source: Source) -> CocoFolder:
    """Reads the annotations of a split and finds its images. ``UserError`` when there is nothing to read."""
    coco = coco_columns.scan(source.annotations)
    if not source.images.is_dir():
        raise UserError(f"{source.images} is not a folder: give the one that holds the images of {source.annotations}")
    paths = [_locate(source.images, file_name) for file_name in coco.file_names]
    found = np.array([path is not None for path in paths])
    missing = [
        Defect(f"image file not found in {source.images}", f"image {coco.image_ids[row]}: {coco.file_names[row]}")
        for row in np.flatnonzero(~found)
    ]
    return CocoFolder(coco.of_images(found), [path for path in paths if path], coco_columns.defects(coco), missing)


def _locate(images: Path, file_name: str) -> Path | None:
    """The file of an image; some tools write a path into ``file_name`` that held on their machine only."""
    candidates = (images / file_name, images / Path(file_name.replace("\\", "/")).name)
    return next((path for path in candidates if path.is_file()), None)


def refuse_different_categories(files: dict[str, CocoFile]) -> None:
    """``UserError`` that names what the category tables of two splits do not share."""
    (first, reference), *others = files.items()
    for split, coco in others:
        difference = coco_json.difference(reference.categories, coco.categories)
        if difference:
            some = ", ".join(difference[:5]) + (", ..." if len(difference) > 5 else "")
            raise UserError(
                f"the categories of {first} and {split} differ ({some}): give both files the same list of categories"
            )


def refuse(path: Path, defects: Iterable[Defect], remedy: str) -> None:
    """Raises one sentence about the first kind of defect that stops training: how many, which, what to do."""
    stopping = [defect for defect in defects if defect.stops]
    if stopping:
        same = [defect.where for defect in stopping if defect.kind == stopping[0].kind]
        more = "; ..." if len(same) > 3 else ""
        raise UserError(f"{path}: {stopping[0].kind}: {len(same):,} ({'; '.join(same[:3])}{more}): {remedy}")
