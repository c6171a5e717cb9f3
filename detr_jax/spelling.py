"""How words are written: which name was meant by one that is mistyped; one thing or several."""

import difflib
from collections.abc import Iterable


def nearest_name(given: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like the given one; None when none does."""
    by_case = {name.lower(): name for name in known}
    found = difflib.get_close_matches(given.lower(), by_case, n=1)
    return by_case[found[0]] if found else None


def count(number: int, one: str, many: str = "") -> str:
    """``1 image``, ``2,000 images``."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def choices(given: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that does not exist: which one is near, and which there are."""
    known = list(known)
    near = nearest_name(given, known)
    return f"did you mean {near}? There are {', '.join(known)}" if near else f"choose from {', '.join(known)}"
