"""Pascal VOC: an XML file an image. Read as LabelImg, CVAT, Roboflow and the devkit write it, and written.

The devkit counts pixels from 1 and means the last pixel by xmax; most other tools write the edges of the box, from 0.
The first is ``offset`` 1, x = xmin - 1 and width = xmax - xmin + 1; the second is 0.
"""

import re
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import defusedxml
import defusedxml.ElementTree

from detr_jax.datasets.defects import Culprits, Defect, shorten, shown
from detr_jax.datasets.instances import AnnotatedImage, AnnotatedObject, Reading, rounded
from detr_jax.datasets.listing import SPLIT_OF_WORD, Listing, decode_text, drop_suffix, find_split
from detr_jax.datasets.normalise import LARGEST_NUMBER, number_of
from detr_jax.errors import UserError

BROKEN_FILE = "XML file that cannot be read"
BROKEN_OBJECT = "object of an XML file that cannot be understood"
_ANNOTATION_FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels")
_IMAGE_FOLDERS = ("JPEGImages", "images", "imgs", "img")
_encoding = re.compile(rb"""<\?xml[^>]*encoding\s*=\s*["']([\w.:-]+)""")
_unwritable = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # XML 1.0 has no way to say them
_devkit = re.compile(r"VOC ?20\d\d", re.IGNORECASE)


class _Object(NamedTuple):
    name: str
    corners: list[int | float]  # as they are written
    is_difficult: bool
    is_truncated: bool
    source: str


class _File(NamedTuple):
    """One XML file as it is written."""

    path: str
    image: str  # what the image is called
    size: tuple[int, int] | None
    objects: list[_Object]
    is_devkit: bool


def read_voc(listing: Listing, offset: int | None = None) -> Reading:
    """Reads every XML file of a folder.

    An image belongs to the splits of ImageSets/Main, or else to the one that a folder of its path is named for, or else
    to "train". Objects that are marked as difficult are crowds: neither learned nor counted as missed.

    Args:
      offset: 0 or 1, see above. By default 1 for files that say they are of the VOC devkit, unless a box begins at 0.

    Raises UserError when no object is found.
    """
    culprits, files, others = Culprits(), [], 0
    for path in listing.ending(".xml"):
        try:
            root = _parse(listing.root / path)
        except ValueError as error:
            culprits.add(BROKEN_FILE, f"{path}: {error}")
            continue
        if root.tag == "annotation":
            files.append(_read_file(path, root, culprits))
        else:
            others += 1
    objects = [one for file in files for one in file.objects]
    if not objects and not culprits.defects():
        raise UserError(
            f"{listing.root}: its {len(files):,} XML files name no object: give a folder of Pascal VOC annotations"
        )
    offset, notes = _choose_offset(files, offset)
    if others:
        notes.append(f"XML files that are no Pascal VOC annotations and left out: {others:,}")
    is_crowd = not all(one.is_difficult for one in objects)
    difficult = sum(one.is_difficult for one in objects)
    if difficult:
        kept = (
            "are neither trained on nor counted as missed" if is_crowd else "are all there is, and are taken as usual"
        )
        notes.append(f"objects marked as difficult: {difficult:,}, which {kept}")
    sizeless = sum(file.size is None for file in files)
    if sizeless:
        notes.append(f"XML files that state no size: {sizeless:,}, for which that of the image is taken")
    splits = _Splits(listing)
    images: dict[str, list[AnnotatedImage]] = {}
    for file in files:
        image = AnnotatedImage(
            _find_image(listing, file), file.size, [_convert(one, offset, is_crowd) for one in file.objects]
        )
        for split in splits.of(file.path):
            images.setdefault(split, []).append(image)
    defects: dict[str, list[Defect]] = {next(iter(images), "train"): culprits.defects()}
    names = sorted({one.name for one in objects})
    return Reading(images or {"train": []}, names, 1, defects, notes + splits.notes())


def _parse(path: Path) -> Element:
    """The root of an XML file. Raises ValueError. Nothing that the file declares is expanded."""
    content = path.read_bytes()
    if not content.strip():
        raise ValueError("it is empty")
    try:
        return defusedxml.ElementTree.fromstring(content)
    except defusedxml.DefusedXmlException as error:
        raise ValueError("it declares entities, which annotations do not need; remove its DOCTYPE") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # perhaps it is another encoding
        declared = _encoding.search(content)
        try:
            text = content.decode(declared[1].decode()) if declared else ""
        except (LookupError, UnicodeDecodeError):
            text = ""
        text = text or decode_text(path)
        try:
            return defusedxml.ElementTree.fromstring(text.lstrip("\ufeff"))
        except (ElementTree.ParseError, defusedxml.DefusedXmlException, ValueError):
            raise ValueError(f"it is no XML ({shorten(str(error))})") from error


def _text(element: Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _read_file(path: str, root: Element, culprits: Culprits) -> _File:
    objects = []
    for number, element in enumerate(root.findall("object"), start=1):
        source = f"{path}, object {number}"
        try:
            objects.append(_read_object(element, source))
        except ValueError as error:
            culprits.add(BROKEN_OBJECT, f"{source}: {error}")
    sides = [number_of(_text(root, f"size/{side}")) for side in ("height", "width")]
    has_size = all(side and side > 0 and side == int(side) for side in sides)
    origin = " ".join(_text(root, f"source/{key}") for key in ("database", "annotation"))
    size = (int(sides[0]), int(sides[1])) if has_size else None
    return _File(path, _text(root, "filename"), size, objects, bool(_devkit.search(origin)))


def _read_object(element: Element, source: str) -> _Object:
    """Raises ValueError."""
    name = _text(element, "name")
    if not name:
        raise ValueError("it has no name")
    if element.find("bndbox") is None:
        raise ValueError(f"{shown(name)} has no bndbox")
    corners = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = _text(element, f"bndbox/{side}")
        number = number_of(text)
        if number is None or abs(number) > LARGEST_NUMBER:
            raise ValueError(f"{side} of {shown(name)} is {shown(text) if text else 'missing'}: it must be a number")
        corners.append(number)
    marks = [_text(element, mark).lower() in ("1", "true", "yes") for mark in ("difficult", "truncated")]
    return _Object(name, corners, *marks, source)


def _choose_offset(files: list[_File], wanted: int | None) -> tuple[int, list[str]]:
    """The offset, and a note if it is not 0."""
    starts = [one.corners[:2] for file in files for one in file.objects]
    at_zero = sum(min(start) < 1 for start in starts)
    if wanted is None:
        if not (files and all(file.is_devkit for file in files)) or at_zero:
            return 0, []
        return 1, ["the files say they are of the VOC devkit: pixels count from 1 (--voc_offset=0 if they do not)"]
    if wanted == 1 and at_zero:
        return 1, [
            f"boxes that begin before pixel 1: {at_zero:,}, although --voc_offset=1 says that pixels count from 1"
        ]
    return wanted, []


def _convert(one: _Object, offset: int, is_crowd: bool) -> AnnotatedObject:
    x0, y0, x1, y1 = one.corners
    box = [rounded(side) for side in (x0 - offset, y0 - offset, x1 - x0 + offset, y1 - y0 + offset)]
    fields = {"iscrowd": 1} if one.is_difficult and is_crowd else {}
    return AnnotatedObject(one.name, box, one.source, fields | ({"truncated": 1} if one.is_truncated else {}))


def _find_image(listing: Listing, file: _File) -> str:
    """The image of an XML file: called like it, or as it says. Where there is none, the name that was looked for."""
    folder, _, base = file.path.rpartition("/")
    stem, parts = base[: -len(".xml")], folder.split("/")
    folders = [folder]
    for place, part in enumerate(parts):
        if part.lower() in _ANNOTATION_FOLDERS:
            for other in (*_IMAGE_FOLDERS, ""):
                folders.append("/".join(filter(None, [*parts[:place], other, *parts[place + 1 :]])))
                folders.append("/".join(filter(None, [*parts[:place], other])))
    folders += [f"{folder}/{images}" for images in _IMAGE_FOLDERS]
    suffix = file.image[len(drop_suffix(file.image)) :] or ".jpg"
    found = listing.find_image([stem + suffix, file.image], folders)
    return found or f"{folder}/{stem}{suffix}".lstrip("/")


class _Splits:
    """Which splits an XML file belongs to."""

    def __init__(self, listing: Listing):
        self._sets: dict[str, dict[str, set[str]]] = {}  # base folder -> split -> ids
        self._known: dict[str, set[str]] = {}
        self._unlisted, self._unannotated = 0, []
        xmls = {path[: -len(".xml")] for path in listing.ending(".xml")}
        for path in listing.ending(".txt"):
            match = re.fullmatch(r"(.*/)?ImageSets/(?:Main/)?(\w+)\.txt", path)
            split = match and ("trainval" if match[2] == "trainval" else SPLIT_OF_WORD.get(match[2]))
            if split:
                lines = decode_text(listing.root / path).splitlines()
                ids = {_read_id(line.strip(), f"{match[1] or ''}Annotations/", xmls) for line in lines if line.strip()}
                self._sets.setdefault(match[1] or "", {})[split] = ids
        for base, sets in self._sets.items():
            if "trainval" in sets:
                rest = sets.pop("trainval")
                sets.setdefault("train", rest - sets.get("val", set()))
            wanted = set().union(*sets.values())
            self._unannotated += sorted(name for name in wanted if f"{base}Annotations/{name}" not in xmls)

    def of(self, path: str) -> list[str]:
        """The splits of one XML file; none if image sets are there and none of them lists it."""
        for base, sets in self._sets.items():
            if path.startswith(f"{base}Annotations/"):
                name = path[len(f"{base}Annotations/") : -len(".xml")]
                found = [split for split, ids in sets.items() if name in ids]
                self._unlisted += not found
                return found
        return [find_split(path) or "train"]

    def notes(self) -> list[str]:
        """What was left out."""
        notes = []
        if self._unlisted:
            notes.append(f"XML files that are in no list of ImageSets/Main and left out: {self._unlisted:,}")
        if self._unannotated:
            some = ", ".join(map(shown, self._unannotated[:3]))
            notes.append(f"images of ImageSets/Main without XML file, left out: {len(self._unannotated):,} ({some})")
        return notes


def _read_id(line: str, folder: str, known: set[str]) -> str:
    """The id in a line of an image set, which may be followed by -1, 0 or 1, and may have spaces."""
    for one in (line, drop_suffix(line), re.sub(r"\s+-?[01]$", "", line)):
        if folder + one in known:
            return one
    return drop_suffix(line)


def make_voc(image: dict, rows: list[dict], names: dict[int, str], offset: int = 0) -> bytes:
    """The XML file of one image.

    Crowds are marked as difficult. Numbers keep their fractions.

    Args:
      image: of COCO, with its size.
      rows: its COCO annotations.
      names: of the classes, by id.
      offset: see the module.
    """
    root = Element("annotation")
    folder, _, base = image["file_name"].rpartition("/")
    _append(root, "folder", folder or "JPEGImages")
    _append(root, "filename", base)
    _append(_append(root, "source"), "database", "Unknown")
    size = _append(root, "size")
    for side, value in (("width", image["width"]), ("height", image["height"]), ("depth", 3)):
        _append(size, side, str(value))
    _append(root, "segmented", "0")
    for row in rows:
        x, y, width, height = row["bbox"]
        one = _append(root, "object")
        _append(one, "name", names[row["category_id"]])
        _append(one, "pose", "Unspecified")
        _append(one, "truncated", str(int(bool(row.get("truncated")))))
        _append(one, "difficult", str(int(bool(row.get("iscrowd")))))
        box = _append(one, "bndbox")
        corners = {"xmin": x + offset, "ymin": y + offset, "xmax": x + width, "ymax": y + height}
        for side, value in corners.items():
            _append(box, side, repr(rounded(value)))
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _append(parent: Element, tag: str, text: str = "") -> Element:
    if _unwritable.search(text):
        raise UserError(f"XML cannot hold the control characters of {shown(text)}: change the name")
    child = ElementTree.SubElement(parent, tag)
    child.text = text or None
    return child
