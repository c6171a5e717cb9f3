"""Which files of folders are images or videos: by what is in them, so that nothing is left out without a word."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detr_jax.errors import UserError
from detr_jax.images.decoding import LIMITS, Limits, decode_upright, probe, read_file
from detr_jax.images.headers import find_format, iterate_png, looks_like
from detr_jax.inference.videos import is_video, made_by

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
}  # fmt: skip
# Suffixes of images that are not read. Raw photos start like a TIFF, and hold a small preview that would be taken.
RAW = {
    ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".mrw", ".nef",
    ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
}  # fmt: skip
OTHER_IMAGES = {
    ".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpf", ".jpx", ".jxl", ".psd", ".psb", ".svg", ".exr", ".hdr",
    ".ico", ".icns", ".tga", ".pcx", ".dds", ".xcf", ".eps", ".sgi", ".dcm", ".fits", ".qoi", ".bpg", ".jxr", ".wdp",
}  # fmt: skip
START = 1024  # bytes of a file that tell what it is
WEAK = {"BMP": (".bmp", ".dib"), "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm")}  # texts may start like these
NAMED, MATCHED, SEARCHED = "named", "matched by a pattern", "found in a folder"  # how a file comes to be an input
APPLE_DOUBLE = b"\0\x05\x16\x07"  # what macOS keeps beside a file on foreign disks, as ._NAME
SOFTWARE = "detr_jax.predict"  # stands in the pictures that it draws
PRELABELS = "prelabels_"  # how the folders of annotations that it writes are called, before their format


class Found(NamedTuple):
    """The files that inputs name, each once."""

    images: list[Path]
    unusable: dict[Path | str, str]  # what looks like an image but is not read, with the reason
    others: list[Path]  # in folders, beside the images: texts, videos, ...
    drawn: list[Path]  # pictures and videos that ``predict`` has drawn
    prelabels: list[Path]  # folders that ``predict`` has written, with images that stand elsewhere too; not searched
    videos: list[Path]
    unasked: list[Path]  # videos in folders


def find_images(inputs: Sequence[str], listed: Sequence[str] = ()) -> Found:
    """The files that paths, folders (searched through) and glob patterns name, in order.

    In folders and patterns a file is an image by what is in it, or by its suffix. One that is named is taken for one,
    unless it is a video or called like a text. Videos are taken where they are named or match a pattern, not in
    folders, where they often lie beside the photos.

    Args:
      listed: further inputs, of which one that names nothing is unusable.

    Raises UserError for one of ``inputs`` that names no file, or only files that are no images.
    """
    found, seen = Found([], {}, [], [], [], [], []), {}
    for number, entry in enumerate([*inputs, *listed]):
        unreadable, any_image, unasked = len(found.unusable), False, len(found.unasked)
        for path, how in _files_of(entry, found):
            key = os.path.abspath(path)
            for passed_over, is_asked in ((found.others, how == NAMED), (found.unasked, how != SEARCHED)):
                if is_asked and path in passed_over:
                    passed_over.remove(path)
                    del seen[key]
            if key not in seen:
                seen[key] = _sort_in(path, how, found)
            any_image |= seen[key]
        if any_image or len(found.unusable) > unreadable:
            continue
        if number < len(inputs) and len(found.unasked) > unasked:
            example = found.unasked[unasked]
            raise UserError(f"--input={entry} holds no image; to take its videos, name them: --input={example}")
        if number < len(inputs):
            raise UserError(f"--input={entry} names no image: pass a file, a folder that holds images, or a pattern")
        found.unusable[entry] = "the list names it, but there is no image"
    return found


def _files_of(entry: str, found: Found) -> Iterator[tuple[Path, str]]:
    """The files of an input, and how each came to be one of them: NAMED, MATCHED or SEARCHED."""
    path = Path(entry).expanduser()
    if _is(path.is_dir):
        yield from ((file, SEARCHED) for file in _walk(path, found))
    elif _is(path.is_file):
        yield path, NAMED
    else:
        for match in sorted(map(Path, glob.glob(str(path), recursive=True))):
            if _is_prelabel(match) and not _is_prelabel(path):
                continue
            if match.is_file():
                yield match, MATCHED
            elif match.is_dir() and "**" not in str(path):
                yield from ((file, SEARCHED) for file in _walk(match, found))


def _is_prelabel(path: Path) -> bool:
    return any(part.startswith(PRELABELS) for part in path.parts)


def _is(test) -> bool:
    try:
        return test()
    except (OSError, ValueError):  # a name of 5,000 characters, a zero byte
        return False


def _walk(folder: Path, found: Found) -> list[Path]:
    def cannot_read(error: OSError) -> None:
        found.unusable[Path(error.filename)] = f"the folder cannot be read ({error.strerror})"

    files = []
    for where, folders, names in os.walk(folder, onerror=cannot_read):
        written = [Path(where) / name for name in folders if name.startswith(PRELABELS)]
        found.prelabels.extend(path for path in written if path not in found.prelabels)
        folders[:] = [name for name in folders if not name.startswith(PRELABELS)]
        files += [Path(where) / name for name in names]
    return sorted(files)


def _sort_in(path: Path, how: str, found: Found) -> bool:
    """Adds a file to ``found``; returns whether it is, or looks like, an image, or is a video that is asked for."""
    suffix, is_named = path.suffix.lower(), how == NAMED
    is_expected = is_named or suffix in SUFFIXES
    try:
        if not path.is_file():
            raise OSError(None, "it is no regular file, or a link that leads nowhere")
        with path.open("rb") as file:
            start = file.read(START)
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
    else:
        reason = _reason_to_leave_out(start, suffix)
        if is_named and suffix == ".txt" and not _is_readable(start, suffix):
            reason = f"it is a text; if it names images, pass --list={path}"
        is_expected |= bool(reason)
        is_film = not reason and suffix not in SUFFIXES and is_video(start, suffix)
        if _is_drawn(start) or (is_film and made_by(path, SOFTWARE)):
            found.drawn.append(path)
            return True
        if is_film:
            (found.unasked if how == SEARCHED else found.videos).append(path)
            return how != SEARCHED
        if not reason and (is_named or _is_readable(start, suffix) or suffix in SUFFIXES):
            found.images.append(path)
            return True
        is_expected &= not start.startswith(APPLE_DOUBLE)
    if is_expected:
        found.unusable[path] = reason
    else:
        found.others.append(path)
    return is_expected


def _reason_to_leave_out(start: bytes, suffix: str) -> str:
    """Why a file that is, or seems to be, an image is not read; "" for any other file."""
    if start.startswith(APPLE_DOUBLE):
        return "it holds only what macOS keeps beside a file"
    if suffix in RAW:
        return "it is a raw photo, of which only a preview could be read; save it as JPEG or PNG"
    kind = looks_like(start) or (
        suffix[1:].upper() if suffix in OTHER_IMAGES and not _is_readable(start, suffix) else ""
    )
    return f"it is a {kind} image, which is not read; save it as JPEG or PNG" if kind else ""


def _is_readable(start: bytes, suffix: str) -> bool:
    try:
        kind = find_format(start)
    except ValueError:
        return False
    return suffix in WEAK.get(kind, (suffix,))


def is_drawn(path: Path) -> bool:
    """Whether a file is a picture or a video that ``predict`` has drawn."""
    try:
        with path.open("rb") as file:
            return _is_drawn(file.read(START)) or made_by(path, SOFTWARE)
    except OSError:
        return False


def _is_drawn(start: bytes) -> bool:
    text = b"Software\0" + SOFTWARE.encode()
    return start[:4] == b"\x89PNG" and any(
        name == b"tEXt" and start[place : place + length] == text for name, place, length in iterate_png(start)
    )


class Checked(NamedTuple):
    """Image files, decoded once to see that they can be."""

    good: list[Path]
    bad: dict[Path, str]  # with the reason
    frames: dict[Path, int]  # of the good ones that are animated or have several pages


def check_images(paths: list[Path], limits: Limits = LIMITS) -> Checked:
    """Which files can be decoded."""
    checked = Checked([], {}, {})
    for path in paths:
        try:
            image = read_file(path, limits)
            frames = probe(image, limits).frames
            decode_upright(image, limits)
        except ValueError as error:
            checked.bad[path] = str(error)
            continue
        checked.good.append(path)
        if frames > 1:
            checked.frames[path] = frames
    return checked
