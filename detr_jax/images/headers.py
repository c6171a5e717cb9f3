"""What the header of an image file says, read before a pixel is decoded: format, size, EXIF orientation.

Only the bytes count, not the file's name. The walk over JPEG, WebP and TIFF is written here because the decoders
allocate memory, or follow what a damaged file says, before they can be asked; the other headers are left to Pillow.
Nothing here takes more memory than the file.
"""

import io
import itertools
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from detr_jax.images.markers import START_OF_SCAN, count_scans, iterate_segments
from detr_jax.images.tags import (
    BITS,
    COMPRESSION,
    HEIGHT,
    MOST_PARTS,
    ORIENTATION,
    ROWS_PER_STRIP,
    SAMPLES_PER_PIXEL,
    TILE_HEIGHT,
    TILE_WIDTH,
    WIDTH,
    count_pages,
    iterate_tags,
    read_orientation,
)

PLUGINS = {  # opened by their own classes: ``Image.open`` would apply Pillow's limit, which is global
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
PLAIN_EFFORT = 64  # a PPM whose numbers are text takes so much longer
MOST_BLOCKS = 3_000_000  # of a GIF, each up to 255 bytes long
MOST_SAMPLES = 6  # a pixel of a TIFF that Pillow reads
USUAL_SCANS = 20  # of a progressive JPEG; each more costs time
STRANGERS = {  # what looks like an image but is not read: bytes at an offset
    "HEIC": (4, (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")),
    "AVIF": (4, (b"ftypavi",)),
    "JPEG 2000": (0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    "JPEG XL": (0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    "Photoshop": (0, (b"8BPS",)),
    "OpenEXR": (0, (b"\x76\x2f\x31\x01",)),
    "raw camera": (0, (b"FUJIFILMCCD-RAW", b"IIRO", b"IIU\0")),
    "SVG": (0, (b"<svg",)),
}


class Header(NamedTuple):
    """What is known of an image file before it is decoded."""

    format: str  # a key of PLUGINS
    size: tuple[int, int]  # (height, width) as stored
    orientation: int = 1  # of EXIF; 1 is upright
    opened: Image.Image | None = None  # by Pillow, nothing loaded yet; None of JPEG and WebP
    components: int = 3  # of a JPEG
    scans_end: int = 0  # of a JPEG: where the first scan's data begin
    effort: int = 1  # how many times the pixels of an ordinary image it takes to decode this one


def find_format(image: bytes) -> str:
    """A key of ``PLUGINS``. Raises ValueError, which says what the file looks like instead."""
    start = image[:16]
    if start[:2] == b"\xff\xd8" and len(start) > 3:
        return "JPEG"
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if start[:2] == b"BM":
        return "BMP"
    if re.match(rb"P([1-7fF]\s|0CMYK|yP)", start):
        return "PPM"
    if not image:
        raise ValueError("the file is empty")
    kind = looks_like(image)
    if kind:
        raise ValueError(f"it is a {kind} image, which is not read; save it as JPEG or PNG")
    raise ValueError(f"it is not an image (it starts with {start[:8]!r})")


def looks_like(image: bytes) -> str | None:
    """The kind of image that cannot be read here but is one, by its first bytes."""
    for kind, (offset, signs) in STRANGERS.items():
        if image[offset : offset + 16].startswith(signs):
            return kind
    return None


def read_header(image: bytes) -> Header:
    """The header of an image file. Raises ValueError, which says what is wrong with it."""
    kind = find_format(image)
    if kind == "JPEG":
        return _read_jpeg(image)
    if kind == "WEBP":
        return _read_webp(image)
    if kind == "TIFF":
        return _read_tiff(image)
    _refuse_endless_header(image, kind)
    opened = open_with_pillow(image, kind)
    orientation = _png_orientation(image) if kind == "PNG" else 1
    effort = PLAIN_EFFORT if kind == "PPM" and image[1:2] in b"123" else 1
    return Header(kind, (opened.height, opened.width), orientation, opened, effort=effort)


def _refuse_endless_header(image: bytes, kind: str) -> None:
    """Pillow walks over as many parts as there are before the pixels, which takes minutes in a file made for it."""
    if kind == "PNG":
        most = MOST_PARTS + len(image) // 4096
        names = (name for name, _, _ in iterate_png(image, most))
        endless = sum(1 for _ in itertools.takewhile(lambda name: name != b"IEND", names)) == most
    else:
        endless = kind == "GIF" and _walk_gif(image, frames=1) is None
    if endless:
        raise ValueError("it is damaged: its header does not end")


def open_with_pillow(image: bytes, kind: str) -> Image.Image:
    """The image as Pillow sees it after the header. Raises ValueError."""
    try:
        return PLUGINS[kind](io.BytesIO(image))
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, KeyError, ...
        raise ValueError(f"it cannot be opened ({one_line(error)})") from error


def one_line(error: Exception) -> str:
    """What an error of a library says, on one short line."""
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


def _read_jpeg(image: bytes) -> Header:
    size, components, progressive, orientation = None, 0, False, None
    for marker, place, length in iterate_segments(image):
        if marker == START_OF_SCAN and size is not None and place + 3 <= len(image):
            scans = 1
            if progressive or image[place + 2] < components:
                scans = count_scans(image, place, components)
            effort = -(-scans // USUAL_SCANS) * (2 if scans > 1 and components > 3 else 1)
            return Header("JPEG", size, orientation or 1, None, components, place + length, effort)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and size is None and length >= 8:
            height, width, components = struct.unpack(">HHB", image[place + 3 : place + 8].ljust(5, b"\0"))
            size, progressive = (height, width), marker in (0xC2, 0xC6, 0xCA, 0xCE)
            if not (height and width):
                raise ValueError(f"its header says {width}x{height} pixels")
        elif marker == 0xE1 and orientation is None and image[place + 2 : place + 8] == b"Exif\0\0":
            orientation = read_orientation(image[place + 8 : place + length])
    raise ValueError("it is truncated or damaged: it holds no pixels")


def _read_webp(image: bytes) -> Header:
    chunks: dict[bytes, bytes] = {}
    for name, start, length in iterate_riff(image):
        chunks.setdefault(name, image[start : start + min(length, 1 << 20)])
        if name in (b"VP8 ", b"VP8L", b"ANMF") and b"VP8X" not in chunks:
            break
    data, orientation, effort = b"", 1, 1
    if b"VP8X" in chunks and len(chunks[b"VP8X"]) >= 10:
        data = chunks[b"VP8X"]
        width, height = (1 + int.from_bytes(data[i : i + 3], "little") for i in (4, 7))
        effort = 4 if data[0] & 2 else 1  # the decoder of animations keeps several canvases
        exif = chunks.get(b"EXIF", b"")
        orientation = read_orientation(exif.removeprefix(b"Exif\0\0"))
    elif len(data := chunks.get(b"VP8 ", b"")) >= 10:
        width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (6, 8))
    elif len(data := chunks.get(b"VP8L", b"")) >= 5:
        bits = int.from_bytes(data[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        raise ValueError("it is truncated or damaged: it holds no pixels")
    if not (width and height):
        raise ValueError(f"its header says {width}x{height} pixels")
    return Header("WEBP", (height, width), orientation, effort=effort)


def iterate_riff(image: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, place, length) of the chunks of a WebP file."""
    place = 12
    for _ in range(MOST_PARTS):
        if place + 8 > len(image):
            return
        length = int.from_bytes(image[place + 4 : place + 8], "little")
        yield image[place : place + 4], place + 8, length
        place += 8 + length + length % 2


def iterate_png(image: bytes, most: int = MOST_PARTS) -> Iterator[tuple[bytes, int, int]]:
    """(name, place, length) of the chunks of a PNG file, at most so many."""
    place = 8
    for _ in range(most):
        if place + 8 > len(image):
            return
        length = int.from_bytes(image[place : place + 4])
        yield image[place + 4 : place + 8], place + 8, length
        place += 12 + length


def _png_orientation(image: bytes) -> int:
    if b"eXIf" not in image:
        return 1
    exif = (image[start : start + length] for name, start, length in iterate_png(image) if name == b"eXIf")
    return read_orientation(next(exif, b""))


def _read_tiff(image: bytes) -> Header:
    """Refuses what would make Pillow or libtiff take much more memory than the file and its pixels."""
    tags = {tag.number: tag for tag in iterate_tags(image)}
    if sum(tag.size for tag in tags.values() if tag.size > 8) > len(image):
        raise ValueError("it is damaged: its directory lists more bytes than the file has")
    value = {number: tag.value for number, tag in tags.items()}
    width, height = value.get(WIDTH, 0), value.get(HEIGHT, 0)
    if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise ValueError(f"its header says {width}x{height} pixels")
    samples = tags.get(SAMPLES_PER_PIXEL)
    if samples and (samples.count != 1 or samples.value > MOST_SAMPLES):  # Pillow would print a line
        raise ValueError(f"it has more than {MOST_SAMPLES} samples a pixel, or is damaged")
    orientation = value.get(ORIENTATION, 1)
    if 2 <= orientation <= 8:  # Pillow would turn it by itself; here it is first seen as stored
        stored = bytearray(image)
        struct.pack_into(tags[ORIENTATION].format, stored, tags[ORIENTATION].place, 1)
        image = bytes(stored)
    opened = open_with_pillow(image, "TIFF")
    if opened.size != (width, height):
        raise ValueError("it is damaged: its directory gives its size twice")
    effort = 1
    if value.get(COMPRESSION, 1) != 1:  # libtiff keeps a whole strip or tile besides the image
        part = min(value.get(ROWS_PER_STRIP, height) or height, height) * width
        part = max(part, value.get(TILE_WIDTH, 0) * value.get(TILE_HEIGHT, 0))
        depths = opened.tag_v2.get(BITS, (8,))
        bits = max((depth for depth in depths if isinstance(depth, int)), default=8)
        bytes_of_pixel = max(1, value.get(SAMPLES_PER_PIXEL, 1)) * max(8, bits) // 8
        effort = max(1, -(-part * bytes_of_pixel // (3 * width * height)))
    return Header("TIFF", (height, width), orientation if 2 <= orientation <= 8 else 1, opened, effort=effort)


def count_frames(image: bytes, header: Header) -> int:
    """How many pictures an animated or multi-page file holds; the first is the one that is used.

    The previews, depth and gain maps that cameras append to a JPEG do not count: no viewer shows them.
    """
    if header.format == "WEBP":
        return max(1, sum(name == b"ANMF" for name, _, _ in iterate_riff(image)))
    if header.format == "PNG":
        places = (start for name, start, _ in iterate_png(image) if name == b"acTL")
        place = next(places, None)
        return 1 if place is None else max(1, int.from_bytes(image[place : place + 4]))
    if header.format == "TIFF":
        return count_pages(image)
    return (_walk_gif(image) or MOST_PARTS) if header.format == "GIF" else 1


def _walk_gif(gif: bytes, frames: int = MOST_PARTS) -> int | None:
    """Counts the frames of a GIF, up to so many, or to where what it says makes no sense; None when it does not end."""

    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    most = frames
    frames, place, last, parts = 0, 13 + table(gif[10] if len(gif) > 10 else 0), len(gif) - 10, 0
    while 0 <= place < last and frames < most:
        if gif[place] == 0x2C:
            frames += 1
            place += 11 + table(gif[place + 9])  # over the descriptor, its colours and the code size
        elif gif[place] == 0x21:
            place += 2
        else:
            break
        if frames == most:
            break
        while place < len(gif) and gif[place] and parts < MOST_BLOCKS:
            place, parts = place + 1 + gif[place], parts + 1
        place, parts = place + 1, parts + 1
        if parts >= MOST_BLOCKS:
            return None
    return max(1, frames)
