"""Files of several detectors as people type them: ``a=x.json b=y.json``, ``a=x.json,b=y.json``, or ``x.json`` alone."""

from collections.abc import Sequence
from pathlib import Path

from detr_jax.errors import UserError


def name_files(values: Sequence[str], flag: str) -> dict[str, Path]:
    """The file of each name, in the order given. A file without a name takes its own, without the suffix.

    Args:
      values: what was given, each one file or several with commas between them.
      flag: what it was given to, for messages.

    Raises UserError when a name is used twice, or when a file does not exist.
    """
    named: dict[str, Path] = {}
    for value in values:
        for text in _split(value):
            name, path = _divide(text)
            if not name:
                raise UserError(f"{flag}={text} has no name before the =; write {flag} NAME=FILE")
            if name in named:
                raise UserError(
                    f"{flag}: both {named[name]} and {path} are named {name!r}; write {flag} NAME=FILE NAME=FILE with "
                    "a name of its own for each"
                )
            named[name] = path
    for path in named.values():
        if not path.is_file():
            raise UserError(f"{flag}: {path} {'is a folder' if path.is_dir() else 'does not exist'}; pass a file")
    return named


def _split(value: str) -> list[str]:
    """At commas, unless there is a file whose name has them."""
    name, path = _divide(value)
    if path.is_file() and (Path(value).expanduser() == path or "," not in name):
        return [value]
    return [part.strip() for part in value.split(",") if part.strip()]


def _divide(text: str) -> tuple[str, Path]:
    whole = Path(text).expanduser()
    name, sign, path = text.partition("=")
    if not sign or whole.is_file():
        return whole.stem, whole
    return name.strip(), Path(path.strip()).expanduser()
