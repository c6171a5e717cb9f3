"""A folder of annotated images in one format -> a new folder in another."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from detr_jax import files
from detr_jax.datasets import box_table, coco, voc, yolo
from detr_jax.datasets.defects import refuse_defects
from detr_jax.datasets.folders import SplitFolder, merge_classes
from detr_jax.datasets.image_paths import match_images
from detr_jax.datasets.instances import SPLIT_ORDER
from detr_jax.datasets.layouts import TITLES
from detr_jax.datasets.listing import drop_suffix, read_size
from detr_jax.errors import UserError
from detr_jax.structures import Categories

IMAGE_CHOICES = ("link", "copy", "none")
IMAGE_FOLDER = {"coco": "images/{split}", "yolo": "images/{split}", "voc": "JPEGImages", "csv": "images"}


class _Content(NamedTuple):
    """One split, ready to be written."""

    instances: dict  # of COCO, every image with its size and its new file name
    paths: list[Path]  # of the images as they are


def convert_folder(
    splits: dict[str, SplitFolder], to: str, output: str | os.PathLike, images: str = "link", voc_offset: int = 0
) -> list[str]:
    """Writes a new folder in another format, all of it or nothing.

    Args:
      splits: what is converted.
      to: "coco", "voc", "yolo" or "csv".
      output: the new folder.
      images: "link" gives each image file a second name in the new folder (a hard link), "copy" copies it, "none"
        leaves the images where they are.
      voc_offset: of the XML files that are written, see ``voc``.

    Returns:
      What was written, and what the format cannot hold.

    Raises UserError when the folder is there already, when an image is missing or cannot be read, and when annotations
    cannot be understood.
    """
    if to not in TITLES or images not in IMAGE_CHOICES:
        raise UserError(
            f"--to={to} --images={images} is not known: choose from {', '.join(TITLES)} and {IMAGE_CHOICES}"
        )
    output = Path(output).expanduser()
    if output.exists():
        raise UserError(f"--output={output} exists already: choose another name, nothing is overwritten")
    lost: Counter = Counter()
    contents = {split: _open(split, splits[split]) for split in SPLIT_ORDER if split in splits}
    tables = {split: coco.categories(content.instances["categories"]) for split, content in contents.items()}
    categories = _merge_names(merge_classes(tables), to, lost)
    contents = _rename(contents, to, lost)
    partial = output.with_name(f"{output.name}.{os.getpid()}.incomplete")
    try:
        partial.mkdir(parents=True)
        for split, content in contents.items():
            _place_images(content, partial / IMAGE_FOLDER[to].format(split=split), images)
        _WRITERS[to](partial, contents, categories, lost, voc_offset)
        _drop_zeros(lost)
        partial.rename(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error}): make room, or choose another --output") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [_count(split, content) for split, content in contents.items()] + [
        f"{TITLES[to]} cannot hold: {count:,} {what}" for what, count in lost.items()
    ]


def _count(split: str, content: _Content) -> str:
    return f"{split}: {len(content.paths):,} images, {len(content.instances['annotations']):,} objects"


def _open(split: str, folder: SplitFolder) -> _Content:
    """Raises UserError."""
    refuse_defects({split: list(folder.defects)}, {split: folder.source})
    instances = coco.read_annotations(folder.annotations)
    images = instances["images"]
    names, ids = [image["file_name"] for image in images], [image["id"] for image in images]
    found = match_images(folder.images, names, ids, folder.allow_outside)
    refuse_defects({split: [*found.missing, *found.defects]}, {split: folder.source}, "correct or remove them")
    known = set(ids)
    strays = [row for row in instances["annotations"] if row["image_id"] not in known]
    if strays or len(known) < len(ids):
        what = f"{len(strays):,} annotations of images that are not listed" if strays else "image ids that repeat"
        raise UserError(f"{folder.source} has {what}: python -m detr_jax.dataset check names them; correct them first")
    rows = []
    for image, path in zip(images, found.paths, strict=True):
        size = (image["height"], image["width"]) if "height" in image else read_size(path)
        if size is None:
            raise UserError(f"{path} cannot be read as an image, and its size is stated nowhere: replace or remove it")
        rows.append(image | {"height": size[0], "width": size[1]})
    annotations = [{key: value for key, value in row.items() if key != "source"} for row in instances["annotations"]]
    return _Content(instances | {"images": rows, "annotations": annotations}, found.paths)


def _merge_names(categories: Categories, to: str, lost: Counter) -> Categories:
    repeated = len(categories.names) - len(set(categories.names))
    if to != "coco" and repeated:
        lost["classes that have the name of another (they become one)"] += repeated
    return categories


def _rename(contents: dict[str, _Content], to: str, lost: Counter) -> dict[str, _Content]:
    """Gives each image the path that it has below the new folder of images, and one of its own.

    VOC and YOLO pair files by their names without the suffix, and VOC and CSV have one folder for all splits.
    """
    taken: dict[str, set[str]] = {}
    renamed = {}
    for split, content in contents.items():
        own = taken.setdefault(split if to in ("coco", "yolo") else "", set())
        rows = []
        for image in content.instances["images"]:
            name = wanted = _inside(image["file_name"], to)
            key = (lambda name: name) if to in ("coco", "csv") else drop_suffix
            number = 1
            while key(name) in own:
                number += 1
                stem, suffix = os.path.splitext(wanted)
                name = f"{stem}_{split}{suffix}" if number == 2 else f"{stem}_{split}{number}{suffix}"
            lost["file names that repeat (the images are renamed)"] += name != wanted
            own.add(key(name))
            rows.append(image | {"file_name": name})
        renamed[split] = content._replace(instances=content.instances | {"images": rows})
    return renamed


def _inside(name: str, to: str) -> str:
    """A file name without what would lead out of the folder.

    Readers of YOLO look for the last folder called images in a path: there is to be none besides that of all images.
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    folders = [f"{part}_" if to == "yolo" and part.lower() in ("images", "labels") else part for part in parts[:-1]]
    return "/".join([*folders, *parts[-1:]]) or "image"


def _place_images(content: _Content, folder: Path, how: str) -> None:
    for image, path in zip(content.instances["images"], content.paths, strict=True):
        if how == "none":
            continue
        target = folder / image["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        if how == "copy":
            shutil.copyfile(path, target)
        else:
            _link(path, target)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(os.path.realpath(path), target)
    except OSError as error:
        raise UserError(f"{path} cannot be linked ({error.strerror}): pass --images=copy or --images=none") from error


def require_links(paths: Iterable[Path], folder: Path) -> None:
    """Raises UserError when files cannot get second names in ``folder``, which exists; one of each disk is tried."""
    for path in {os.stat(path).st_dev: path for path in paths}.values():
        trial = folder / f".{os.getpid()}.trial"
        try:
            _link(path, trial)
        finally:
            trial.unlink(missing_ok=True)


def _by_image(instances: dict) -> Iterable[tuple[dict, list[dict]]]:
    of_image: dict[int, list[dict]] = {image["id"]: [] for image in instances["images"]}
    for row in instances["annotations"]:
        of_image[row["image_id"]].append(row)
    return ((image, of_image[image["id"]]) for image in instances["images"])


def _write_coco(root: Path, contents: dict[str, _Content], categories: Categories, lost: Counter, offset: int) -> None:
    for split, content in contents.items():
        with files.replacing(root / f"annotations/instances_{split}.json") as path:
            path.write_text(json.dumps(content.instances, ensure_ascii=False), encoding="utf-8")


def _write_voc(root: Path, contents: dict[str, _Content], categories: Categories, lost: Counter, offset: int) -> None:
    names = dict(zip(*categories, strict=True))
    for split, content in contents.items():
        stems = []
        for image, rows in _by_image(content.instances):
            stems.append(drop_suffix(image["file_name"]))
            _write(root / f"Annotations/{stems[-1]}.xml", voc.make_voc(image, rows, names, offset))
            lost["outlines (the boxes are written)"] += sum(bool(row.get("segmentation")) for row in rows)
            lost["crowds (written as difficult)"] += sum(row["iscrowd"] for row in rows)
        _write(root / f"ImageSets/Main/{split}.txt", "".join(f"{stem}\n" for stem in stems).encode())


def _write_yolo(root: Path, contents: dict[str, _Content], categories: Categories, lost: Counter, offset: int) -> None:
    names = list(dict.fromkeys(categories.names))
    label_of_id = {i: names.index(name) for i, name in zip(*categories, strict=True)}
    for split, content in contents.items():
        for image, rows in _by_image(content.instances):
            single = [row for row in rows if not row["iscrowd"]]
            boxes = [row | {"bbox": _clip(row["bbox"], image)} for row in single]
            kept = [row for row in boxes if min(row["bbox"][2:]) > 0]
            text = yolo.make_label(image, kept, label_of_id)
            _write(root / f"labels/{split}/{drop_suffix(image['file_name'])}.txt", text.encode())
            lost["crowds (left out)"] += len(rows) - len(single)
            lost["outlines (the boxes are written)"] += sum(bool(row.get("segmentation")) for row in kept)
            lost["boxes without area in the image (left out)"] += len(boxes) - len(kept)
            lost["boxes beyond the image (clipped)"] += sum(
                new["bbox"] != old["bbox"] for new, old in zip(boxes, single, strict=True) if min(new["bbox"][2:]) > 0
            )
    _write(root / "data.yaml", yolo.make_description(contents, names).encode())


def _clip(box: list, image: dict) -> list:
    """The part of a box in its image; the box itself if that is all of it, but for the last digits of float64."""
    x, y, width, height = box
    slack = 1e-9
    if x >= 0 and y >= 0 and x + width <= image["width"] + slack and y + height <= image["height"] + slack:
        return box
    x0, y0 = max(x, 0), max(y, 0)
    return [x0, y0, min(x + width, image["width"]) - x0, min(y + height, image["height"]) - y0]


def _write_csv(root: Path, contents: dict[str, _Content], categories: Categories, lost: Counter, offset: int) -> None:
    names = dict(zip(*categories, strict=True))
    table: list[tuple] = [box_table.HEADER]
    for split, content in contents.items():
        for image, rows in _by_image(content.instances):
            single = [row for row in rows if not row["iscrowd"]]
            table += box_table.make_rows(split, image, single, names)
            lost["crowds (left out)"] += len(rows) - len(single)
            lost["outlines (the boxes are written)"] += sum(bool(row.get("segmentation")) for row in single)
    files.write_csv(root / "annotations.csv", table)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _drop_zeros(counts: Counter) -> None:
    for key in [key for key, count in counts.items() if not count]:
        del counts[key]


_WRITERS: dict[str, Callable] = {"coco": _write_coco, "voc": _write_voc, "yolo": _write_yolo, "csv": _write_csv}
