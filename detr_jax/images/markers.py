"""The segments and scans of a JPEG, found by their markers."""

import re
from collections.abc import Iterator

from detr_jax.images.tags import MOST_PARTS

START_OF_SCAN, END = 0xDA, 0xD9
KEPT = (0xE0, 0xEE)  # the application data that tell the colours: JFIF's and Adobe's


def iterate_segments(image: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, place, length) of the segments up to the header of the first scan; a segment begins with its length."""
    place = 2
    for _ in range(MOST_PARTS):
        place = image.find(b"\xff", place)
        marker = image[place + 1] if 0 <= place < len(image) - 3 else END
        if marker == END:  # of the file or of the image
            return
        place += 1 if marker == 0xFF else 2
        if marker in (0xFF, 0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # stands alone: it has no length
            continue
        length = int.from_bytes(image[place : place + 2])
        yield marker, place, length
        if marker == START_OF_SCAN:
            return
        place += length


def tidy(image: bytes) -> bytes:
    """The same picture without what is no part of it before its first scan: stray bytes, comments, profiles.

    libjpeg warns of strays there as it does of damage, though no pixel needs them.
    """
    parts, end = [image[:2]], 2
    for marker, place, length in iterate_segments(image):
        end = place + length
        if marker < 0xE0 or marker in KEPT:
            parts.append(bytes([0xFF, marker]) + image[place:end])
    return b"".join([*parts, image[end:]])


_mark = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # within the data of a scan: not a stuffed byte, not a restart


def count_scans(image: bytes, place: int, components: int) -> int:
    """The number of scans of a JPEG that has several. Raises ValueError when they do not add up to an image.

    libjpeg fills what no scan brings with grey and says nothing. Args: place: of the first scan's header.
    """
    missing: dict[int, int] = {}  # of each component, a bit for each coefficient that is not yet exact
    scans = 0
    while scans < MOST_PARTS:
        length, count = int.from_bytes(image[place : place + 2]), image[place + 2]
        header = image[place + 3 : place + 6 + 2 * count]
        if len(header) == 2 * count + 3:
            first, last, depth = header[-3], min(header[-2], 63), header[-1] & 15
            for component in header[0:-3:2]:
                exact = ((1 << (last + 1)) - (1 << first)) if depth == 0 and first <= last else 0
                missing[component] = missing.get(component, (1 << 64) - 1) & ~exact
        scans += 1
        place += length
        while True:  # to the next scan, over the tables before it
            found = _mark.search(image, place)
            if found is None or found[0][1] == 0xD9 or found.start() + 5 > len(image):
                if len(missing) < components or any(missing.values()):
                    raise ValueError("it is truncated: it ends before its last scan")
                return scans
            place = found.end()
            if found[0][1] == START_OF_SCAN:
                break
            if found[0][1] != 0x01:
                place += int.from_bytes(image[place : place + 2])
    raise ValueError("it is damaged: its scans do not end")
