"""YOLO: a text file an image, a line an object, fractions of the upright image. Read and written.

Layouts: images/train with labels/train (Ultralytics), train/images with train/labels (Roboflow), text files beside the
images (LabelImg, Darknet), and lists of images in text files. data.yaml names the classes and where the splits are;
without it classes.txt or obj.names name the classes.
"""

import os
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import yaml

from detr_jax.datasets.defects import Culprits, shorten, shown
from detr_jax.datasets.examination import in_order
from detr_jax.datasets.instances import AnnotatedImage, AnnotatedObject, Reading, rounded
from detr_jax.datasets.listing import SPLIT_OF_WORD, Listing, decode_text, drop_suffix, find_split, read_size
from detr_jax.datasets.normalise import number_of
from detr_jax.errors import UserError

BROKEN_LINE = "line of a label file that cannot be understood"
NO_NAME = "line of a label file with a class that has no name"
NO_FRACTION = "line of a label file whose numbers are no fractions from 0 to 1"
SLACK = 0.01  # that tools which round go beyond 0 and 1
TEXT_NAMES = ("classes.txt", "obj.names")


class Description(NamedTuple):
    """What data.yaml says."""

    path: str  # of the file, below the root
    names: list[str]
    splits: dict[str, list[str]]  # folders or lists of images, as they are written
    base: str  # what they start from, as it is written
    has_keypoints: bool
    notes: list[str]


def find_description(listing: Listing) -> str | None:
    """The file that names the classes, nearest to the root: a YAML file with ``names``, or classes.txt."""
    by_depth = sorted(listing.ending(".yaml", ".yml"), key=lambda path: (path.count("/"), "data" not in path, path))
    for path in by_depth:
        if re.search(r"^\s*[\"']?names[\"']?\s*:", decode_text(listing.root / path), re.MULTILINE):
            return path
    texts = [path for path in listing.files if path.rpartition("/")[2].lower() in TEXT_NAMES]
    return min(texts, key=lambda path: (path.count("/"), path), default=None)


def has_labels(listing: Listing) -> bool:
    """Whether a text file looks like labels: numbers, five or more a line."""
    for path in listing.ending(".txt"):
        with open(listing.root / path, "rb") as file:
            words = file.readline(4096).split()
        if len(words) >= 5 and all(number_of(word.decode("latin-1")) is not None for word in words):
            return True
    return False


def read_yolo(listing: Listing) -> Reading:
    """Reads the labels of all images of all splits. An image without labels is background.

    A class has the id of its line or key in ``names``, mostly from 0.

    Raises UserError when nothing names the classes, and when no image is found.
    """
    path = find_description(listing)
    if path is None:
        raise UserError(
            f"{listing.root} has YOLO labels but no data.yaml that names the classes: add one with names: [...]"
        )
    about = _read_description(listing, path)
    notes = list(about.notes)
    of_split = _find_images(listing, about, notes)
    files = [image for images in of_split.values() for image in images]
    if not files:
        raise UserError(f"{listing.root / path}: no image is found where it says: correct its path, train and val")
    labels = {image: _find_label(listing, image) for image in files}
    sizes = dict(zip(files, in_order(lambda row: read_size(listing.root / files[row]), range(len(files))), strict=True))
    alone = _find_labels_alone(listing, set(filter(None, labels.values())), of_split)
    images, defects = {}, {}
    for split, members in of_split.items():
        culprits = Culprits()
        images[split] = [
            AnnotatedImage(image, sizes[image], _read_label(listing, labels[image], sizes[image], about, culprits))
            for image in members
        ]
        images[split] += [AnnotatedImage(image, None, []) for image in alone.pop(split, [])]
        defects[split] = culprits.defects()
    without = sum(label is None for label in labels.values())
    if without:
        notes.append(f"images without a label file, which are background: {without:,}")
    return Reading(images, about.names, 0, defects, notes)


def _read_description(listing: Listing, path: str) -> Description:
    text = decode_text(listing.root / path)
    if not path.lower().endswith((".yaml", ".yml")):
        return Description(path, [line.strip() for line in text.splitlines() if line.strip()], {}, "", False, [])
    try:
        content = yaml.load(text.replace("\t", "  "), Loader=yaml.BaseLoader)  # all is text: no, 1 and null are names
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(
            f"{listing.root / path} is no YAML ({shorten(' '.join(str(error).split()))}): correct it"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{listing.root / path} is no YAML mapping: it must have names, train and val")
    names, notes = _read_names(listing, path, content.get("names"), content.get("nc"))
    splits: dict[str, list[str]] = {}
    for key, value in content.items():
        if split := SPLIT_OF_WORD.get(str(key).lower()):
            entries = value if isinstance(value, list) else [value]
            splits[split] = [entry for entry in entries if isinstance(entry, str) and entry.strip()]
    base = content.get("path")
    base = base if isinstance(base, str) else ""
    return Description(path, names, splits, base, "kpt_shape" in content, notes)


def _read_names(listing: Listing, path: str, names: Any, count: Any) -> tuple[list[str], list[str]]:
    """The names by class number, and what is odd about them."""
    where = listing.root / path
    if isinstance(names, dict):
        numbers = {number_of(key): name for key, name in names.items()}
        if not all(isinstance(number, int) and 0 <= number < 10**6 for number in numbers):
            raise UserError(f"{where}: the keys of names must be class numbers from 0, like 0: cat")
        names = [numbers.get(number, str(number)) for number in range(max(numbers, default=-1) + 1)]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: names must list the names of the classes, like names: [cat, dog]")
    names = [name.strip() or str(number) for number, name in enumerate(names)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{where} names two classes {shown(twice)}: give each class a name of its own")
    if count is not None and number_of(count) != len(names):
        return names, [f"{path} says nc: {shown(count)} but names {len(names):,} classes; the names count"]
    return names, []


def _find_images(listing: Listing, about: Description, notes: list[str]) -> dict[str, list[str]]:
    """The images of each split, sorted."""
    of_split = {}
    for split, entries in about.splits.items():
        images: set[str] = set()
        for entry in entries:
            found = _resolve(listing, about, entry)
            if found is None:
                notes.append(f"{about.path} says {split}: {shown(entry)}, which is not there")
            else:
                images |= set(found)
        if images:
            of_split[split] = sorted(images)
    if "val" in of_split and of_split["val"] == of_split.get("train"):
        notes.append(f"{about.path} gives train and val the same images: they are taken as train alone")
        del of_split["val"]
    if not of_split:  # classes.txt, or paths of another machine
        for image in listing.images:
            of_split.setdefault(find_split(image) or "train", []).append(image)
    return of_split


def _resolve(listing: Listing, about: Description, entry: str) -> list[str] | None:
    """The images of a folder or a list. None if there is neither."""
    home = about.path.rpartition("/")[0]
    bases = [home, _below(listing, f"{home}/{about.base}"), _below(listing, about.base), ""]
    for place in _candidates(listing, entry, [base for base in bases if base is not None]):
        folder = f"{place}/" if place else ""
        if place in listing and place.lower().endswith(".txt"):
            return _read_list(listing, place, bases)
        inside = [image for image in listing.images if image.startswith(folder)]
        if inside:
            return inside
    return None


def _below(listing: Listing, path: str) -> str | None:
    """A path as it is called below the root; None if it leads out of it."""
    place = os.path.relpath(os.path.join(os.path.abspath(listing.root), path), os.path.abspath(listing.root))
    place = place.replace(os.sep, "/")
    return None if place.startswith("..") else "" if place == "." else place


def _candidates(listing: Listing, entry: str, bases: list[str]) -> Iterable[str]:
    """Where a path may lead: from each base as it is written, then without its first folders, of another machine."""
    entry = entry.strip().replace("\\", "/")
    parts = [part for part in entry.split("/") if part not in ("", ".")]
    tries = [entry] if entry.startswith("/") else [f"{base}/{entry}".lstrip("/") for base in bases]
    while parts:
        tries += [f"{base}/{'/'.join(parts)}".lstrip("/") for base in bases if parts[0] != ".."]
        parts = parts[1:]
    for one in dict.fromkeys(tries):
        if (place := _below(listing, one)) is not None:
            yield place


def _read_list(listing: Listing, path: str, bases: list[str | None]) -> list[str]:
    """The images that a text file lists. Those that are not there are named as they are written."""
    home = path.rpartition("/")[0]
    places = [home, *(base for base in bases if base is not None)]
    found = []
    for line in decode_text(listing.root / path).splitlines():
        if line.strip():
            inside = (place for place in _candidates(listing, line, places) if place in listing)
            found.append(next(inside, None) or line.strip().replace("\\", "/").removeprefix("./"))
    return found


def _find_label(listing: Listing, image: str) -> str | None:
    """The label file: where images is replaced by labels in the path, or beside the image."""
    stem = drop_suffix(image)
    folders = stem.split("/")
    for place in reversed(range(len(folders) - 1)):
        if folders[place].lower() in ("images", "jpegimages"):
            path = "/".join([*folders[:place], "labels", *folders[place + 1 :]]) + ".txt"
            if path in listing:
                return path
    return f"{stem}.txt" if f"{stem}.txt" in listing else None


def _find_labels_alone(listing: Listing, used: set[str], of_split: dict[str, list[str]]) -> dict[str, list[str]]:
    """What images the label files without an image should belong to, by split; they are not there."""
    folders = {label.rpartition("/")[0] for label in used}
    alone: dict[str, list[str]] = {}
    for label in listing.ending(".txt"):
        folder, _, base = label.rpartition("/")
        if (
            label in used
            or folder not in folders
            or base.lower() in TEXT_NAMES
            or not _looks_like_labels(listing, label)
        ):
            continue
        split = find_split(label) or "train"
        image = "/".join("images" if part == "labels" else part for part in folder.split("/"))
        name = f"{image}/{base[:-4]}.jpg".lstrip("/")
        alone.setdefault(split if split in of_split else next(iter(of_split)), []).append(name)
    return alone


def _looks_like_labels(listing: Listing, path: str) -> bool:
    words = decode_text(listing.root / path).split()
    return bool(words) and all(number_of(word) is not None for word in words[:5])


def _read_label(
    listing: Listing, path: str | None, size: tuple[int, int] | None, about: Description, culprits: Culprits
) -> list[AnnotatedObject]:
    """The objects of one image; none if its size is not known, as that of an image that is broken."""
    if path is None or size is None:
        return []
    objects = []
    for number, line in enumerate(decode_text(listing.root / path).splitlines(), start=1):
        source = f"{path}, line {number}"
        try:
            if line.strip():
                objects.append(_read_line(line, size, about, source))
        except _BadLine as error:
            culprits.add(error.kind, f"{source}: {error}")
    return objects


class _BadLine(ValueError):
    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def _read_line(line: str, size: tuple[int, int], about: Description, source: str) -> AnnotatedObject:
    """Raises _BadLine."""
    numbers = [number_of(word) for word in line.replace(",", " ").split()]
    if None in numbers or len(numbers) < 5:
        raise _BadLine(BROKEN_LINE, f"{shown(line)} is not a class number, x, y, width and height")
    label, *values = numbers
    if about.has_keypoints:
        values = values[:4]
    if len(values) % 2:
        meaning = "a number too many, perhaps the confidence of a prediction"
        raise _BadLine(BROKEN_LINE, f"{shown(line)} has {meaning}")
    if label != int(label) or not 0 <= label < len(about.names):
        raise _BadLine(
            NO_NAME, f"class {label}, but {about.path} names {len(about.names):,} (0 to {len(about.names) - 1})"
        )
    if max(values) > 1 + SLACK or min(values) < -SLACK:
        hint = " (pixels must be divided by the width and height of the image)" if max(values) > 2 else ""
        raise _BadLine(NO_FRACTION, f"{shown(line)}{hint}")
    height, width = size
    name, fields = about.names[int(label)], {}
    if len(values) == 4:
        x, y, w, h = values
        box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
    else:
        points = np.array(values, np.float64).reshape(-1, 2) * (width, height)
        low, high = points.min(axis=0), points.max(axis=0)
        box = [*low.tolist(), *(high - low).tolist()]
        fields = {"segmentation": [[rounded(side) for side in points.ravel().tolist()]]}
    return AnnotatedObject(name, [rounded(side) for side in box], source, fields)


def make_label(image: dict, rows: list[dict], label_of_id: dict[int, int]) -> str:
    """The label file of one image, exact to float64.

    Args:
      image: of COCO, with its size.
      rows: its COCO annotations; boxes must lie in the image.
      label_of_id: class numbers by category id.
    """
    lines = []
    for row in rows:
        x, y, width, height = row["bbox"]
        shares = (x + width / 2) / image["width"], (y + height / 2) / image["height"]
        shares += width / image["width"], height / image["height"]
        lines.append(" ".join([str(label_of_id[row["category_id"]]), *(repr(float(share)) for share in shares)]) + "\n")
    return "".join(lines)


def make_description(splits: Iterable[str], names: list[str]) -> str:
    """data.yaml of images/SPLIT and labels/SPLIT."""
    content: dict[str, Any] = {split: str(PurePosixPath("images") / split) for split in splits}
    content |= {"nc": len(names), "names": dict(enumerate(names))}
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=10**6)
