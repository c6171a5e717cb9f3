"""Looking at every image once: whether it can be decoded, how large it is, and whether it was seen before."""

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from detr_jax.datasets import defects
from detr_jax.datasets.box_checks import find_suspicious_boxes
from detr_jax.datasets.coco_stream import CocoFile
from detr_jax.datasets.defects import Culprits, Defect, shorten, shown
from detr_jax.datasets.folders import CocoFolder
from detr_jax.images import decoding

THREADS = os.cpu_count() or 1
AHEAD = 4  # images that each thread may be ahead, so that memory holds no more of them
SAMPLES = 1024  # bytes of a file: its first ones, its last ones, and as many between them


class Look(NamedTuple):
    """What one image file is like."""

    row: int
    file: bytes
    size: tuple[int, int]  # (height, width) that the boxes refer to; (0, 0) if the file cannot be used
    error: str | None  # why it cannot be used
    info: decoding.ImageInfo | None


def look(row: int, file: bytes, stated: tuple[int, int] | None, quick: bool = False) -> Look:
    """Looks at one image file; reads all of its data unless ``quick``.

    Args:
      row: what the result is called.
      stated: the (height, width) that the annotations state, if they do.
    """
    try:
        info, size = decoding.examine(file, stated, quick=quick)
    except ValueError as error:
        return Look(row, file, (0, 0), str(error), None)
    return Look(row, file, size, None, info)


def look_at_folder(folder: CocoFolder, quick: bool = False) -> Iterator[Look]:
    """Looks at the images of a folder in ascending id, several at a time."""

    def look_at(row: int) -> Look:
        stated = tuple(folder.file.sizes[row].tolist())
        try:
            file = decoding.read_file(folder.paths[row])
        except ValueError as error:
            return Look(row, b"", (0, 0), str(error), None)
        return look(row, file, stated if all(stated) else None, quick)

    return in_order(look_at, np.argsort(folder.file.image_ids, kind="stable").tolist())


def in_order(function: Callable[[int], Any], rows: Iterable[int]) -> Iterator[Any]:
    """Like ``map``, in threads, only a few rows ahead."""
    waiting: deque = deque()
    with ThreadPoolExecutor(THREADS) as threads:  # decoding and hashing release the interpreter lock
        for row in rows:
            waiting.append(threads.submit(function, row))
            if len(waiting) >= THREADS * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@runtime_checkable
class Source(Protocol):
    """Where the file of an image can be read again: a path, or a record of a prepared dataset."""

    def read_bytes(self) -> bytes: ...


class Sighting(NamedTuple):
    """An image that was seen."""

    split: str
    name: str
    source: Source


class Sightings:
    """Remembers which images of which split were seen, by their content.

    Only samples of each file are hashed; all of it when the samples of two files are the same.
    """

    def __init__(self):
        self._first: dict[bytes, Sighting] = {}  # by samples
        self._first_whole: dict[bytes, Sighting] = {}  # by content, where samples repeat
        self._repeated: set[bytes] = set()  # samples

    def find(self, file: bytes, sighting: Sighting) -> Sighting:
        """Where this content was seen first; ``sighting`` itself if it is new."""
        samples = _digest(file[:SAMPLES] + file[:: 1 + len(file) // SAMPLES] + file[-SAMPLES:] + b"%d" % len(file))
        first = self._first.setdefault(samples, sighting)
        if first is sighting:
            return sighting
        if samples not in self._repeated:
            self._repeated.add(samples)
            with contextlib.suppress(OSError):  # it was removed since
                self._first_whole.setdefault(_digest(first.source.read_bytes()), first)
        return self._first_whole.setdefault(_digest(file), sighting)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:16]


class Examination:
    """Collects what is wrong with the images and boxes of one split.

    Attributes:
      sizes: int64 [M 2], the (height, width) that the boxes refer to; (0, 0) of images that cannot be used.
    """

    def __init__(
        self, split: str, file: CocoFile, sources: Sequence[Source], sightings: Sightings, broken_stops: bool = True
    ):
        self.sizes = np.zeros((len(sources), 2), np.int64)
        self._split, self._file, self._sources, self._sightings = split, file, sources, sightings
        self._broken_stops, self._culprits = broken_stops, Culprits()

    def add(self, seen: Look) -> None:
        """Takes note of one image, which is ``seen.row`` of the file."""
        name = f"image {self._file.image_ids[seen.row]} ({shorten(self._file.file_names[seen.row])})"
        if seen.error:
            self._culprits.add(defects.BROKEN, f"{name}: {seen.error}", self._broken_stops)
            return
        self.sizes[seen.row] = seen.size
        info = seen.info
        if info.is_ambiguous:
            self._culprits.add(defects.UNSURE_TURN, f"{name}: orientation {info.orientation}", stops=False)
        elif seen.size != info.upright_size:
            self._culprits.add(defects.TURNED, f"{name}: orientation {info.orientation}", stops=False)
        if info.frames > 1:
            self._culprits.add(defects.FRAMES, f"{name}: {info.frames:,}", stops=False)
        source = self._sources[seen.row]
        first = self._sightings.find(seen.file, Sighting(self._split, name, source))
        if first.split != self._split:
            self._culprits.add(defects.LEAKED, f"{name} is {first.name} of {first.split}", stops=False)
        elif first.source != source:  # a file that is listed twice was named before
            self._culprits.add(defects.COPIED, f"{name} is {first.name}", stops=False)

    @property
    def is_usable(self) -> Bool[np.ndarray, " M"]:
        """Which images can be used, of those that were looked at."""
        return self.sizes.all(axis=1)

    def defects(self, is_sound: bool = True) -> list[Defect]:
        """Everything that was found; that of the boxes too, if each belongs to one image and one class."""
        return self._culprits.defects() + (find_suspicious_boxes(self._file, self.sizes) if is_sound else [])


def describe_rare_classes(names: Iterable[str], boxes: Int[np.ndarray, " K"]) -> list[str]:
    """A note about the classes without boxes, if there are any."""
    without = [shown(name) for name, count in zip(names, boxes.tolist(), strict=True) if not count]
    if not without:
        return []
    some = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
    return [f"{len(without):,} of {len(boxes):,} classes have no box here ({some})"]
