"""The files below a folder of images, listed once: what there is, and which image an annotation means."""

import hashlib
import json
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from detr_jax.datasets.defects import shown
from detr_jax.datasets.folders import SUFFIXES
from detr_jax.errors import UserError
from detr_jax.images import decoding

HEAD = 1 << 18  # bytes that hold the header of nearly every JPEG
# Two images of these kinds that have as many bytes are the same; a changed bitmap keeps its size.
COMPRESSED = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif")
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF_WORD = {word: split for split, words in _SPLITS.items() for word in words}


class Listing:
    """All files below ``root``, hidden ones left out.

    Attributes:
      root: the folder.
      files: paths below it with slashes, sorted.
      images: those that are called like images.
    """

    def __init__(self, root: str | os.PathLike, without: Iterable[str | os.PathLike] = ()):
        """Raises UserError when there is no such folder.

        Args:
          without: folders that are left out, such as the one of prepared datasets.
        """
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise UserError(f"--root={root} is not a folder: give the one that holds the images and annotations")
        left_out = {os.path.realpath(Path(path).expanduser()) for path in without}
        self.files = sorted(_walk(self.root, left_out - {os.path.realpath(self.root)}))
        self.images = [path for path in self.files if path.lower().endswith(SUFFIXES)]
        self._known = set(self.files)
        self._finder = None

    def __contains__(self, path: str) -> bool:
        return path in self._known

    def ending(self, *suffixes: str) -> list[str]:
        """The files with one of these suffixes, in upper or lower case."""
        return [path for path in self.files if path.lower().endswith(suffixes)]

    def find_image(self, names: Iterable[str], folders: Iterable[str]) -> str | None:
        """The image that is called by one of ``names``, with or without its suffix; None if there is none.

        It lies in one of ``folders`` (paths below the root), or anywhere if only one image there has the name. Case and
        the two spellings of accents in Unicode do not matter, nor does the suffix.
        """
        if self._finder is None:
            self._finder = _ImageFinder(self.images)
        return self._finder.find([name.replace("\\", "/") for name in names if name], list(folders))

    def describe(self) -> str:
        """What was seen, for messages: "12 .jpg, 12 .xml and 1 .txt files"."""
        counts = Counter(os.path.splitext(path)[1].lower() or "nameless" for path in self.files).most_common(5)
        seen = [f"{count:,} {shown(suffix)[1:-1]}" for suffix, count in counts]
        return (", ".join(seen[:-1]) + " and " if len(seen) > 1 else "") + f"{seen[-1]} files" if seen else "no file"

    def fingerprint(self) -> str:
        """A digest of all names and sizes, and of the content of all files but compressed images."""
        digest = hashlib.sha256()
        for path in self.files:
            file = self.root / path
            row = [path, file.stat().st_size]
            if not path.lower().endswith(COMPRESSED):
                with open(file, "rb") as stream:
                    row.append(hashlib.file_digest(stream, "sha256").hexdigest())
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()


def _walk(root: Path, left_out: set[str]) -> Iterable[str]:
    seen = set(left_out)
    for parent, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        below = os.path.relpath(parent, root).replace(os.sep, "/")
        for name in names:
            if not name.startswith(".") and os.path.isfile(os.path.join(parent, name)):
                yield name if below == "." else f"{below}/{name}"


class _ImageFinder:
    """Images by path and by name, each with and without its suffix."""

    def __init__(self, images: list[str]):
        self._images = set(images)
        self._by: dict[str, list[str]] = defaultdict(list)
        for path in images:
            base = path.rpartition("/")[2]
            for key in {_key(path), _key(drop_suffix(path))}:
                self._by[key].append(path)
            for key in {_key(base), _key(drop_suffix(base))}:
                self._by["*/" + key].append(path)

    def find(self, names: list[str], folders: list[str]) -> str | None:
        bases = list(dict.fromkeys([*names, *(name.rpartition("/")[2] for name in names)]))
        inside = [os.path.normpath(f"{folder}/{base}").lstrip("/") for folder in folders for base in bases]
        for path in inside:
            if path in self._images:
                return path
        keys = [_key(path) for path in inside] + [_key(drop_suffix(path)) for path in inside]
        anywhere = [name.rpartition("/")[2] for name in names]
        keys += ["*/" + _key(base) for base in anywhere] + ["*/" + _key(drop_suffix(base)) for base in anywhere]
        for key in keys:
            if len(self._by.get(key, ())) == 1:
                return self._by[key][0]
        return None


def _key(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def drop_suffix(path: str) -> str:
    """The path without the suffix of an image; other dots belong to the name."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix.lower() in SUFFIXES else path


def find_split(path: str) -> str | None:
    """The split that a folder of this path is named for, such as train, valid or test2017."""
    for folder in path.lower().split("/")[:-1]:
        word = folder[:-4] if folder[-4:].isdigit() else folder
        if word in SPLIT_OF_WORD:
            return SPLIT_OF_WORD[word]
    return None


def read_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image as a viewer shows it; None if it cannot be read. Nothing is decoded."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
        if head[:2] == b"\xff\xd8":  # other formats may have their orientation behind the pixels
            try:
                return decoding.image_size(head)
            except ValueError:
                pass  # the rest is needed
        return decoding.image_size(decoding.read_file(path))
    except (OSError, ValueError):
        return None


def decode_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark, or else in Windows' Western encoding."""
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")
