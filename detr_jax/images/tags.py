"""The directories of TIFF files and of EXIF blocks, which are small TIFF files: tags and their values.

Written here because Pillow copies the values of every tag, and a damaged file can name the whole file as the value of
each of 65,535 tags.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

MOST_PARTS = 20_000  # pages, segments or chunks that are walked over; files have a few
# Tags of TIFF and EXIF.
WIDTH, HEIGHT, BITS, COMPRESSION, ORIENTATION, SAMPLES_PER_PIXEL, ROWS_PER_STRIP = 256, 257, 258, 259, 274, 277, 278
TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT = 322, 323, 339
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}


class Tag(NamedTuple):
    """An entry of a TIFF directory."""

    number: int
    count: int
    size: int  # bytes of its values, which stand elsewhere in the file when they do not fit into the entry
    value: int  # the first value, if it is an integer within the entry; else 0
    place: int  # of that value in the file
    format: str  # of ``struct``, how it is stored; "" when it is no integer


def iterate_tags(tiff: bytes, directory: int | None = None) -> Iterator[Tag]:
    """The entries of a directory of a TIFF file or EXIF block: the one at this place, else the first."""
    order = ">" if tiff[:2] == b"MM" else "<"
    big = tiff[2:4] in (b"+\0", b"\0+")  # BigTIFF
    offset, offset_size, count_size = ("Q", 8, 8) if big else ("I", 4, 2)
    entry = 4 + 2 * offset_size
    try:
        if directory is None:
            (directory,) = struct.unpack_from(order + offset, tiff, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), tiff, directory)
        for place in range(directory + count_size, directory + count_size + min(count, MOST_PARTS) * entry, entry):
            number, kind, values = struct.unpack_from(f"{order}HH{offset}", tiff, place)
            size, place = TYPE_SIZES.get(kind, 0) * values, place + 4 + offset_size
            form, value = order + INTEGERS[kind] if kind in INTEGERS and values else "", 0
            if form and size <= offset_size:
                (value,) = struct.unpack_from(form, tiff, place)
            yield Tag(number, values, size, value, place, form)
    except (struct.error, OverflowError):  # the file ends before the directory does
        return


def read_orientation(exif: bytes) -> int:
    """The EXIF orientation, 1 to 8, of an EXIF block; 1 when it has none, or is damaged."""
    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    values = [tag.value for tag in iterate_tags(exif) if tag.number == ORIENTATION]
    return values[-1] if values and 1 <= values[-1] <= 8 else 1


def count_pages(tiff: bytes) -> int:
    """How many directories a TIFF file has, each with a picture."""
    order, big = ">" if tiff[:2] == b"MM" else "<", tiff[2:4] in (b"+\0", b"\0+")
    offset, offset_size, count_size, counts = ("Q", 8, 8, "Q") if big else ("I", 4, 2, "H")
    seen: set[int] = set()
    place = 8 if big else 4
    while len(seen) < MOST_PARTS:
        try:
            (directory,) = struct.unpack_from(order + offset, tiff, place)
            (count,) = struct.unpack_from(order + counts, tiff, directory)
        except (struct.error, OverflowError):
            break
        if directory == 0 or directory in seen:
            break
        seen.add(directory)
        place = directory + count_size + count * (4 + 2 * offset_size)
    return max(1, len(seen))
