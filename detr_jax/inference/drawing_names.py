"""How pictures and videos with detections are called: like what they are of, and like no other file."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from detr_jax.inference.folders_of_images import is_drawn

LONGEST_STEM = 100  # characters of a drawing's name


class Names(NamedTuple):
    """Where in the output folder each image and video is drawn."""

    drawings: list[str]
    attention: list[str]
    videos: list[str]


def name_drawings(images: Sequence[Path], videos: Sequence[Path], output: Path) -> Names:
    """The names of all that may be drawn."""
    attention = [f"attention/{name}" for name in choose_names(images, output / "attention")]
    return Names(choose_names(images, output), attention, choose_names(videos, output, ".mp4"))


def choose_names(paths: Sequence[Path], output: Path, suffix: str = ".png") -> list[str]:
    """A file name in ``output`` for each drawing: none twice, whatever the case, and none of a file of another kind."""
    existing = list(output.iterdir()) if output.is_dir() else []
    taken, names = {path.name.casefold() for path in existing if not is_drawn(path)}, []
    for path in paths:
        stem, number = path.stem[:LONGEST_STEM], 2
        name = f"{stem}{suffix}"
        while name.casefold() in taken:
            name, number = f"{stem}_{number}{suffix}", number + 1
        taken.add(name.casefold())
        names.append(name)
    return names
