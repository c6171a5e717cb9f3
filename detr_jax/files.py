"""Files that are either the old one or the new one, never half of it, whenever the process dies."""

import csv
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary sibling to write; it takes the place of ``path`` when the block ends without an error.

    Missing folders are made. The sibling keeps the suffix, from which writers of pictures choose their format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sibling = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield sibling
        os.replace(sibling, path)
    finally:
        sibling.unlink(missing_ok=True)


def write_csv(path: str | os.PathLike, rows: Iterable[Iterable]) -> None:
    """Writes a table, whole. Half a surrogate pair, which names of JSON files may hold, is written as its escape."""
    with (
        replacing(path) as sibling,
        sibling.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file).writerows(rows)


def cache_folder() -> Path:
    """Where copies are kept that can be made again: ``$DETR_JAX_CACHE``, by default ``~/.cache/detr_jax``."""
    return Path(os.environ.get("DETR_JAX_CACHE") or "~/.cache/detr_jax").expanduser()


def remove_partial(folder: Path) -> None:
    """Removes the siblings that killed processes left below ``folder``, which has one writer."""
    for left in folder.rglob(".*.partial*"):
        left.unlink(missing_ok=True)
