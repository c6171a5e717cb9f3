"""CSV tables with a row a box. Read with the usual headers or without (keras-retinanet), and written.

With a header the columns are found by name, in any order. Without one a row is path, x1, y1, x2, y2, class. A row with
an image and no box is an image without objects. Boxes are edges in pixels, counted from 0.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from detr_jax.datasets.defects import Culprits, shown
from detr_jax.datasets.instances import AnnotatedImage, AnnotatedObject, Reading, rounded
from detr_jax.datasets.listing import SPLIT_OF_WORD, Listing, decode_text, find_split
from detr_jax.datasets.normalise import LARGEST_NUMBER, number_of
from detr_jax.errors import UserError

BROKEN_ROW = "row of a table that cannot be understood"
COLUMNS = {  # what a column may be called
    "image": (
        "filename",
        "file_name",
        "image",
        "image_name",
        "image_path",
        "path",
        "filepath",
        "file",
        "img",
        "imageid",
    ),
    "xmin": ("xmin", "x_min", "x1", "left"),
    "ymin": ("ymin", "y_min", "y1", "top"),
    "xmax": ("xmax", "x_max", "x2", "right"),
    "ymax": ("ymax", "y_max", "y2", "bottom"),
    "class": ("class", "label", "class_name", "classname", "category", "name", "label_name", "labelname"),
}
OPTIONAL = {
    "width": ("width", "image_width"),
    "height": ("height", "image_height"),
    "split": ("split", "set", "subset"),
}
REQUIRED = tuple(COLUMNS)
WITHOUT_HEADER = ("image", "xmin", "ymin", "xmax", "ymax", "class")
HEADER = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", "split")
IMAGE_FOLDERS = ("images", "JPEGImages", "imgs", "img")


class BoxTable(NamedTuple):
    """A table that was recognised."""

    path: str
    rows: list[tuple[int, list[str]]]  # the number of the line, and its cells
    columns: dict[str, int]  # where what stands


def find_tables(listing: Listing) -> list[BoxTable]:
    """The CSV files of a folder that hold boxes."""
    tables = (_open_table(listing, path) for path in listing.ending(".csv"))
    return [table for table in tables if table]


def _open_table(listing: Listing, path: str) -> BoxTable | None:
    rows = list(_read_rows(decode_text(listing.root / path)))
    if not rows:
        return None
    head = [re.sub(r"[\s\-]+", "_", cell.strip().lower()) for cell in rows[0][1]]
    columns = {}
    for name, aliases in (COLUMNS | OPTIONAL).items():
        places = [head.index(alias) for alias in aliases if alias in head]
        if places:
            columns[name] = places[0]
    if all(name in columns for name in REQUIRED):
        return BoxTable(path, rows[1:], columns)
    columns = {name: place for place, name in enumerate(WITHOUT_HEADER)}
    if all(len(cells) == len(WITHOUT_HEADER) and _is_box_or_empty(cells) for _, cells in rows):
        return BoxTable(path, rows, columns)
    return None


def _read_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=False)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error:  # a field of more than 128 KB: no table of boxes
        return


def _is_box_or_empty(cells: list[str]) -> bool:
    corners = [cell.strip() for cell in cells[1:5]]
    return not any(corners) or all(number_of(cell) is not None for cell in corners)


def read_box_tables(listing: Listing, tables: list[BoxTable]) -> Reading:
    """Reads all tables of a folder.

    A row belongs to the split of its column ``split``, or of the name of the file (train.csv, val_labels.csv), or of
    the folder that the file is in, or else to "train". Classes have ids from 1, in alphabetical order.
    """
    objects: dict[str, dict[str, list[AnnotatedObject]]] = {}  # by split and image
    sizes: dict[str, tuple[int, int] | None] = {}
    culprits: dict[str, Culprits] = {}
    for table in tables:
        of_table = _split_of_name(table.path) or find_split(table.path) or "train"
        for line, cells in table.rows:
            row = {name: cells[place].strip() for name, place in table.columns.items() if place < len(cells)}
            split = SPLIT_OF_WORD.get(row.get("split", "").lower(), of_table)
            source = f"{table.path}, line {line}"
            own_culprits = culprits.setdefault(split, Culprits())
            if not row.get("image"):
                own_culprits.add(BROKEN_ROW, f"{source}: it names no image")
                continue
            image = _find_image(listing, table.path, row["image"])
            members = objects.setdefault(split, {}).setdefault(image, [])
            sizes[image] = sizes.get(image) or _read_stated_size(row)
            try:
                members += _read_object(row, source)
            except ValueError as error:
                own_culprits.add(BROKEN_ROW, f"{source}: {error}")
    images = {
        split: [AnnotatedImage(image, sizes[image], members) for image, members in sorted(of_image.items())]
        for split, of_image in objects.items()
    }
    names = sorted({one.name for of_image in objects.values() for members in of_image.values() for one in members})
    if not names and not any(one.defects() for one in culprits.values()):
        raise UserError(f"{listing.root / tables[0].path} names no object: give a table with a row a box")
    defects = {split: culprits[split].defects() for split in culprits}
    if not images:
        images = {"train": []}
    return Reading(images, names, 1, defects, [])


def _split_of_name(path: str) -> str | None:
    words = re.split(r"[^a-z]+", path.rpartition("/")[2].lower())
    return next((SPLIT_OF_WORD[word] for word in words if word in SPLIT_OF_WORD), None)


def _find_image(listing: Listing, table: str, name: str) -> str:
    """The image of a row. Where there is none, the name that was looked for."""
    name = name.replace("\\", "/")
    home = table.rpartition("/")[0]
    inside = f"{home}/{name}".lstrip("/")
    if inside in listing:
        return inside
    folder = name.rpartition("/")[0]
    folders = [f"{base}/{part}".strip("/") for base in (home, "") for part in (folder, *IMAGE_FOLDERS, "")]
    return listing.find_image([name], folders) or name


def _read_stated_size(row: dict[str, str]) -> tuple[int, int] | None:
    height, width = (number_of(row.get(side, "")) for side in ("height", "width"))
    if not height or not width or min(height, width) < 0 or height != int(height) or width != int(width):
        return None
    return int(height), int(width)


def _read_object(row: dict[str, str], source: str) -> list[AnnotatedObject]:
    """One object, or none. Raises ValueError."""
    corners = [row.get(side, "") for side in ("xmin", "ymin", "xmax", "ymax")]
    name = row.get("class", "")
    if not any(corners) and not name:
        return []
    numbers = [number_of(text) for text in corners]
    for side, text, number in zip(("xmin", "ymin", "xmax", "ymax"), corners, numbers, strict=True):
        if number is None or abs(number) > LARGEST_NUMBER:
            raise ValueError(f"{side} is {shown(text) if text else 'missing'}: it must be a number")
    if not name:
        raise ValueError("it has a box but no class")
    x0, y0, x1, y1 = numbers
    return [AnnotatedObject(name, [rounded(side) for side in (x0, y0, x1 - x0, y1 - y0)], source)]


def make_rows(split: str, image: dict, rows: list[dict], names: dict[int, str]) -> Iterable[tuple]:
    """The rows of one image below ``HEADER``: one a box, or one without a box.

    Args:
      image: of COCO, with its size.
      rows: its COCO annotations.
      names: of the classes, by id.
    """
    size = image["file_name"], image["width"], image["height"]
    for row in rows:
        x, y, width, height = row["bbox"]
        yield (*size, names[row["category_id"]], *map(rounded, (x, y, x + width, y + height)), split)
    if not rows:
        yield (*size, "", "", "", "", "", split)
