"""Large JSON files, one element at a time. COCO's training annotations are 450 MB of text and far more as objects."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

CHUNK = 4 << 20  # bytes read at a time
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some Windows tools begin UTF-8 files with it

_space = re.compile(r"[ \t\r\n]*")
_parse_at = json.JSONDecoder().raw_decode


class Element(NamedTuple):
    """One element of a top-level array, or the whole value of a top-level key that holds something else."""

    key: str | None  # None where the file itself is one array
    value: Any  # an empty array is its own only element: []
    start: int  # the element is the bytes [start, end) of the file
    end: int


def elements(path: str | os.PathLike) -> Iterator[Element]:
    """Yields what a JSON file holds, two levels deep, in the order of the file.

    Takes the memory of a few chunks, or of the largest element.

    Raises ValueError, which says what is wrong and at which byte, when the file is not JSON in UTF-8.
    """
    with open(path, "rb") as file:
        window = _Window(file)
        if window.peek() == "[":
            yield from _values(window, None)
            return
        window.take("{")
        mark = "," if window.peek() != "}" else window.take("}")
        while mark == ",":
            key, _, _ = window.value()
            window.take(":")
            yield from _values(window, key)
            mark = window.take(",}")


def _values(window: "_Window", key: str | None) -> Iterator[Element]:
    if window.peek() != "[":
        yield Element(key, *window.value())
        return
    window.take("[")
    mark = ","
    if window.peek() == "]":
        mark = window.take("]")
        yield Element(key, [], window.offset - 1, window.offset)
    while mark == ",":
        yield Element(key, *window.value())
        mark = window.take(",]")


class _Window:
    """The part of the file being parsed, read as latin-1: one character a byte, so that positions are byte offsets.

    The structure is read correctly: JSON's marks are ASCII, which UTF-8 never uses inside longer characters. An element
    with other characters is parsed again from its bytes.
    """

    def __init__(self, file):
        self.file, self.text, self.at, self.base = file, "", 0, 0
        if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK:
            self.base = len(BYTE_ORDER_MARK)
        file.seek(self.base)

    @property
    def offset(self) -> int:
        return self.base + self.at

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            self.at = _space.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._refill():
                return ""

    def take(self, characters: str) -> str:
        """Moves past the next character, which must be one of ``characters``."""
        character = self.peek()
        if not character or character not in characters:
            raise ValueError(f"expected {' or '.join(characters)} at byte {self.offset:,}")
        self.at += 1
        return character

    def value(self) -> tuple[Any, int, int]:
        """The next JSON value and the bytes where it starts and ends."""
        self.peek()
        while True:
            try:
                value, end = _parse_at(self.text, self.at)
            except json.JSONDecodeError as error:
                if self._refill():  # cut at the end of the chunk, or wrong: more of the file tells
                    continue
                raise ValueError(f"{error.msg} at byte {self.base + error.pos:,}") from None
            if end == len(self.text) and self._refill():
                continue  # a number at the end of a chunk may go on in the next
            start, text = self.offset, self.text[self.at : end]
            self.at = end
            return value if text.isascii() else json.loads(text.encode("latin-1")), start, self.offset

    def _refill(self) -> bool:
        chunk = self.file.read(max(CHUNK, len(self.text) - self.at))  # doubling: a long element is not parsed n times
        self.text = self.text[self.at :] + chunk.decode("latin-1")
        self.base, self.at = self.base + self.at, 0
        return bool(chunk)
