"""Lists of images: text files with a path, a folder, a pattern or a web address on each line."""

import glob
import os
from pathlib import Path

from detr_jax.datasets.listing import decode_text
from detr_jax.errors import UserError
from detr_jax.inference.web_images import is_web_address


def read_image_list(path: str | os.PathLike) -> list[str]:
    """What the lines of a list name, in order; blank lines are skipped.

    A relative path starts from the folder of the list. If nothing is there, it starts from the current folder.

    Raises UserError when the list cannot be read, is no text or names nothing.
    """
    path = Path(path).expanduser()
    try:
        text = decode_text(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--list={path} cannot be read ({reason}): pass a text file with a path on each line"
        ) from error
    if "\0" in text:
        raise UserError(f"--list={path} is no text: pass a file with a path on each line, or images with --input")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"--list={path} is empty: write a path on each line")
    return [line if is_web_address(line) else _from_list(path, line) for line in lines]


def _from_list(path: Path, line: str) -> str:
    beside = str(path.parent / Path(line).expanduser())
    return beside if os.path.exists(beside) or glob.glob(beside, recursive=True) else line
