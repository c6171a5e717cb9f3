"""Large JSON files, one element at a time. COCO's training annotations are 450 MB of text and far more as objects."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

CHUNK = 4 << 20  # bytes read at a time
LONGEST = 8 << 20  # bytes of one element: as objects it may take twenty times as much
DEEPEST = 100  # levels of brackets within one element
TOO_DEEP = f"brackets are nested more than {DEEPEST} levels deep"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some Windows tools begin UTF-8 files with it
OTHER_FILES = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip", b"PK": "zip"}  # by their beginning
CUT = 64  # bytes before the end of a chunk in which a number, a word or an escape may be cut

_space = re.compile(r"[ \t\r\n]*")
_brackets = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[][{}]', re.DOTALL)


class Element(NamedTuple):
    """One element of a top-level array, or the whole value of a top-level key that holds something else."""

    key: str | None  # None where the file itself is one array
    number: int | None  # in its array, from 1; None of a value that is no element of an array
    value: Any  # an empty array is a value of its own, without a number: []
    start: int  # the element is the bytes [start, end) of the file
    end: int


def elements(path: str | os.PathLike) -> Iterator[Element]:
    """Yields what a JSON file holds, two levels deep, in the order of the file.

    Takes the memory of a few chunks, or of the largest element.

    Raises ValueError, which says what is wrong and at which byte, when the file is not one JSON document in UTF-8, when
    a key is given twice in one object, and when an element is longer or deeper than any annotation.
    """
    with open(path, "rb") as file:
        window = _Window(file)
        if window.peek() == "[":
            yield from _values(window, None)
        else:
            yield from _members(window)
        if window.peek():
            raise ValueError(f"more text follows its end, at byte {window.offset:,}")


def _members(window: "_Window") -> Iterator[Element]:
    keys = set()
    window.take("{")
    mark = "," if window.peek() != "}" else window.take("}")
    while mark == ",":
        key, start, _ = window.value()
        if not isinstance(key, str):
            raise ValueError(f"expected a key in quotes at byte {start:,}")
        if key in keys:
            raise ValueError(f"the key {json.dumps(key)[:80]} is given a second time at byte {start:,}")
        keys.add(key)
        window.take(":")
        yield from _values(window, key)
        mark = window.take(",}")


def _values(window: "_Window", key: str | None) -> Iterator[Element]:
    if window.peek() != "[":
        yield Element(key, None, *window.value())
        return
    start = window.offset
    window.take("[")
    mark, number = ",", 0
    if window.peek() == "]":
        mark = window.take("]")
        yield Element(key, None, [], start, window.offset)
    while mark == ",":
        number += 1
        yield Element(key, number, *window.value())
        mark = window.take(",]")


def _make_object(pairs: list[tuple[str, Any]]) -> dict:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in made if keys.count(key) > 1)
        raise ValueError(f"the key {json.dumps(twice)[:80]} is given twice in one entry")
    return made


_parse_at = json.JSONDecoder(object_pairs_hook=_make_object).raw_decode


def _check_depth(text: str) -> None:
    """Raises ValueError when brackets are nested too deep. Counting them is enough for nearly every text."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return
    depth = 0
    for found in _brackets.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > DEEPEST:
            raise ValueError(TOO_DEEP)


class _Window:
    """The part of the file being parsed, read as latin-1: one character a byte, so that positions are byte offsets.

    The structure is read correctly: JSON's marks are ASCII, which UTF-8 never uses inside longer characters. An element
    with other characters is parsed again from its bytes.
    """

    def __init__(self, file):
        self.file, self.text, self.at, self.base = file, "", 0, 0
        beginning = file.read(len(BYTE_ORDER_MARK))
        if beginning == BYTE_ORDER_MARK:
            self.base = len(BYTE_ORDER_MARK)
        other = next((name for mark, name in OTHER_FILES.items() if beginning.startswith(mark)), None)
        if other:
            raise ValueError(f"it is {other}, not JSON in UTF-8")
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
                place = self.base + error.pos
                if self._may_be_cut(error) and self._refill():
                    continue
                raise ValueError(f"{error.msg} at byte {place:,}") from None
            except RecursionError:
                raise ValueError(TOO_DEEP) from None
            except ValueError as error:
                what = "a number has too many digits" if "integer string" in str(error) else str(error)
                raise ValueError(f"{what}, after byte {self.offset:,}") from None
            if end == len(self.text) and self._refill():
                continue  # a number at the end of a chunk may go on in the next
            start, text = self.offset, self.text[self.at : end]
            self.at = end
            self._check_length(len(text), start)
            _check_depth(text)
            if not text.isascii():
                value = None  # its memory is needed for the second parse
                value, _ = _parse_at(self._decode(text, start), 0)
            return value, start, self.offset

    def _decode(self, text: str, start: int) -> str:
        try:
            return text.encode("latin-1").decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"it is not in UTF-8, at byte {start + error.start:,}") from None

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether more of the file may mend what the parser stumbled over."""
        return error.pos >= len(self.text) - CUT or error.msg.startswith("Unterminated string")

    def _check_length(self, length: int, start: int) -> None:
        if length > LONGEST:
            raise ValueError(f"one entry is longer than {LONGEST >> 20} MB, after byte {start:,}")

    def _refill(self) -> bool:
        rest = len(self.text) - self.at
        self._check_length(rest, self.offset)
        size = max(CHUNK, min(rest, LONGEST >> 1))  # more: a long element is not parsed n times
        chunk = self.file.read(min(size, LONGEST + 1 - rest))
        self.text = self.text[self.at :] + chunk.decode("latin-1")
        self.base, self.at = self.base + self.at, 0
        return bool(chunk)
