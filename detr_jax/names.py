"""Names as pictures show them: any name, in whatever script, is visible, and none is taken for markup or breaks a line.

The font is DejaVu Sans, which matplotlib brings along: Latin, Greek, Cyrillic, Hebrew, Arabic and many symbols. What it
lacks, Chinese for instance, is shown by its code points: two names that differ look different.
"""

import functools
import importlib.util
import unicodedata
from pathlib import Path

from PIL import ImageFont

FONT = Path(importlib.util.find_spec("matplotlib").submodule_search_locations[0], "mpl-data/fonts/ttf/DejaVuSans.ttf")
HEAD, TAIL = 40, 16  # characters that are kept of a long text, whose end may be a score
SMALLEST = 10  # pixels: a font does not shrink further to make a text narrower
JOINERS = "\u200c\u200d"  # without width, and needed by some scripts


def legible(text: str) -> str:
    """The text on one line of moderate length, with what cannot be seen or drawn written as its code.

    A line break becomes ``\\n``, a character that the font lacks ``<4E2D>``.
    """
    if len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]}…{text[-TAIL:]}"
    return "".join(map(_show, text))


def single_line(text: str, shorten: bool = True) -> str:
    """The text on one line, by default of moderate length, for files that are read as text: any script stays as it is.

    What cannot be seen is written as its code: a line break, a change of direction, half a surrogate pair.
    """
    if shorten and len(text) > HEAD + TAIL:
        text = f"{text[:HEAD]}…{text[-TAIL:]}"
    return "".join(
        one if one.isprintable() or one in JOINERS else one.encode("unicode_escape").decode() for one in text
    )


def font_of(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font for a text that is ``legible``."""
    return ImageFont.load_default(size) if text.isascii() else ImageFont.truetype(FONT, size)


def fit_text(text: str, size: int, width: int, height: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """A ``legible`` text and its font, which fit into so many pixels.

    The font shrinks by up to a quarter, or as far as the height demands. What is still too wide loses characters before
    its last word, which may be a score; where not even that word has room, the text is "".
    """
    while size > 1 and sum(font_of(text, size).getmetrics()) > height:
        size -= 1
    least = min(size, max(SMALLEST, 3 * size // 4))
    while size > least and font_of(text, size).getlength(text) > width:
        size -= 1
    name, blank, end = text.rpartition(" ")
    shorter = [f"{name[:count]}…{blank}{end}" for count in reversed(range(len(name)))]
    shorter = shorter or [f"{end[:count]}…" for count in reversed(range(len(end)))]
    for one in (text, *shorter, end, ""):
        font = font_of(one, size)
        if font.getlength(one) <= width:
            return one, font
    raise AssertionError("an empty text has no width")


@functools.lru_cache(4096)
def _show(character: str) -> str:
    if character in JOINERS:
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    if not character.isprintable():  # control characters, changes of direction, halves of surrogate pairs
        return character.encode("unicode_escape").decode()
    return character if _glyph(character) != _glyph("\U0010ffff") else f"<{ord(character):04X}>"


def _glyph(character: str) -> bytes:
    """How the font draws a character; what it lacks it draws as a box."""
    return bytes(ImageFont.truetype(FONT, 24).getmask(character))
