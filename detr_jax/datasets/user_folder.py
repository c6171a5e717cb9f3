"""A folder of photos and annotations as people have it -> splits with COCO annotations -> a prepared dataset."""

import itertools
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from detr_jax.datasets import box_table, coco, voc, yolo
from detr_jax.datasets.box_table import find_tables
from detr_jax.datasets.folders import SplitFolder, find_splits
from detr_jax.datasets.image_paths import match_images
from detr_jax.datasets.instances import Reading, to_instances
from detr_jax.datasets.layouts import TITLES, recognise_format
from detr_jax.datasets.listing import Listing
from detr_jax.datasets.near_duplicates import group_images
from detr_jax.datasets.prepare import VERSION, Provenance, Summary, prepare_dataset
from detr_jax.datasets.splitting import split_instances
from detr_jax.errors import UserError


class FolderOptions(NamedTuple):
    """How a folder is read."""

    format: str = "auto"  # or coco, voc, yolo, csv
    val_share: float = 0.2  # of the images, where there is no validation split; 0 leaves it at that
    split_seed: int = 0
    voc_offset: int | None = None  # 0 or 1, see ``voc``; None finds out
    allow_outside: bool = False  # whether images may lie outside of the folder


DEFAULT = FolderOptions()
TAKEN = ("coco", "shapes")  # names of datasets that are made in another way


class OpenedFolder(NamedTuple):
    """A folder that was read."""

    format: str
    splits: dict[str, SplitFolder]
    notes: list[str]


class PreparedFolder(NamedTuple):
    """What was done."""

    is_new: bool  # False if it was there already, of the same folder
    summaries: dict[str, Summary]  # empty if it was there
    notes: list[str]

    def describe(self) -> list[str]:
        """Lines for the user."""
        return [*self.notes, *(line for split, summary in self.summaries.items() for line in summary.describe(split))]


@contextmanager
def opened_root(
    root: str | os.PathLike, options: FolderOptions = DEFAULT, without: tuple[str | os.PathLike, ...] = ()
) -> Iterator[OpenedFolder]:
    """Yields the splits of a folder in any known format; files that were made for it vanish afterwards.

    Where there is no validation split, part of the training split becomes one (see ``splitting``), unless
    ``options.val_share`` is 0. Images stay where they are.

    Args:
      without: folders below it that do not belong to it.

    Raises UserError when there is no such folder, no known format or more than one, and when nothing can be read.
    """
    _check_options(options)
    listing = Listing(root, without)
    with tempfile.TemporaryDirectory(prefix="detr_jax_") as scratch:
        with _named_errors(listing):
            opened = _read(listing, options, Path(scratch))
            if options.val_share and "train" in opened.splits and "val" not in opened.splits:
                opened = _split(opened, options, Path(scratch))
        splits = {split: one._replace(allow_outside=options.allow_outside) for split, one in opened.splits.items()}
        yield opened._replace(splits=splits)


@contextmanager
def _named_errors(listing: Listing) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or listing.root} cannot be read ({error.strerror}): check its rights"
        ) from error


def _check_options(options: FolderOptions) -> None:
    if not 0 <= options.val_share < 1:
        raise UserError(f"--val_share={options.val_share} is no share: give 0, for no validation split, or less than 1")
    if options.voc_offset not in (None, 0, 1):
        raise UserError(f"--voc_offset={options.voc_offset} is not known: give 0 or 1")


def _read(listing: Listing, options: FolderOptions, scratch: Path) -> OpenedFolder:
    kind, notes = recognise_format(listing, options.format)
    if kind == "coco":
        splits = find_splits(listing.root)
        if not splits:
            raise UserError(
                f"--root={listing.root} holds no COCO annotations: leave out --format=coco to see what it holds"
            )
        return OpenedFolder(kind, splits, notes)
    if kind == "voc":
        reading = voc.read_voc(listing, options.voc_offset)
    elif kind == "yolo":
        reading = yolo.read_yolo(listing)
    else:
        tables = find_tables(listing)
        if not tables:
            columns = ", ".join(box_table.REQUIRED)
            raise UserError(f"--root={listing.root} has no CSV table of boxes: its header must name {columns}")
        reading = box_table.read_box_tables(listing, tables)
    notes = [f"read as {TITLES[kind]}", *notes, *reading.notes]
    return OpenedFolder(kind, _write_splits(listing.root, reading, scratch), notes)


def _write_splits(root: Path, reading: Reading, scratch: Path) -> dict[str, SplitFolder]:
    splits = {}
    for split, instances in to_instances(reading).items():
        if not instances["categories"]:
            raise UserError(f"{root}: no object can be read ({'; '.join(map(str, reading.defects.get(split, ())))})")
        images = _common_folder([image["file_name"] for image in instances["images"]])
        for image in instances["images"]:
            image["file_name"] = image["file_name"].removeprefix(f"{images}/")
        path = _write(scratch / f"{split}.json", instances)
        splits[split] = SplitFolder(root / images, path, origin=root, defects=tuple(reading.defects.get(split, ())))
    return splits


def _common_folder(file_names: list[str]) -> str:
    """The folder below which all images of a split lie; "" if that is the root, or if some lie outside of it."""
    try:
        folder = os.path.commonpath([name.rpartition("/")[0] for name in file_names])
    except ValueError:  # some are absolute
        return ""
    return "" if folder.startswith(("/", "..")) else folder


def _write(path: Path, instances: dict) -> Path:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(instances, file, ensure_ascii=False)
    return path


def _split(opened: OpenedFolder, options: FolderOptions, scratch: Path) -> OpenedFolder:
    """Takes the validation split out of the training split."""
    whole = opened.splits["train"]
    instances = coco.read_annotations(whole.annotations)
    names, ids = [[image[key] for image in instances["images"]] for key in ("file_name", "id")]
    paths = match_images(whole.images, names, ids, options.allow_outside).paths
    groups = group_images(names, paths)
    *parts, sentence = split_instances(instances, groups, options.val_share, options.split_seed)
    splits = {}
    for split, part in zip(("train", "val"), parts, strict=True):
        path = _write(scratch / f"{split}_part.json", part)
        splits[split] = whole._replace(annotations=path, origin=whole.source)
    splits["val"] = splits["val"]._replace(defects=())
    return opened._replace(
        splits=splits | {"test": opened.splits["test"]} if "test" in opened.splits else splits,
        notes=[*opened.notes, sentence],
    )


def prepare_folder(
    root: str | os.PathLike,
    name: str,
    data_dir: str | os.PathLike,
    options: FolderOptions = DEFAULT,
    *,
    overwrite: bool = False,
    skip_missing: bool = False,
    skip_broken: bool = False,
    quick: bool = False,
) -> PreparedFolder:
    """Prepares the dataset DATA_DIR/NAME from a folder in any known format.

    Does nothing if it was prepared from this folder already, with the same options, and neither names nor sizes of the
    files nor any annotation has changed since.

    Args:
      overwrite, skip_missing, skip_broken, quick: as for ``prepare_dataset``.

    Raises UserError like ``opened_root`` and ``prepare_dataset``, and when the dataset is there but of something else.
    """
    choices = {"skip_missing": skip_missing, "skip_broken": skip_broken, "quick": quick}
    target = Path(data_dir).expanduser() / name / VERSION
    listing = Listing(root, [data_dir])
    source = {
        "root": os.path.realpath(listing.root),
        "files": listing.fingerprint(),
        "options": options._asdict() | choices,
    }
    if target.exists() and not overwrite:
        difference = _compare(_source(target), source)
        if difference:
            again = _command(listing, target, options, choices)
            raise UserError(
                f"{target} exists already{difference}: pass --overwrite to replace it ({again}), or another --name"
            )
        return PreparedFolder(False, {}, [f"{target} was prepared from {root} already, which has not changed since"])
    provenance = Provenance(
        "Images with {} annotations, prepared by detr_jax.", _command(listing, target, options, choices), source
    )
    with opened_root(root, options, (data_dir,)) as opened:
        provenance = provenance._replace(description=provenance.description.format(TITLES[opened.format]))
        summaries = prepare_dataset(
            opened.splits, data_dir, name, overwrite=overwrite, provenance=provenance, **choices
        )
        return PreparedFolder(True, summaries, opened.notes)


def choose_name(root: str | os.PathLike, data_dir: str | os.PathLike) -> str:
    """A name for the dataset of a folder: the folder's own as far as it goes, with a number if another has it."""
    path = Path(os.path.realpath(Path(root).expanduser()))
    word = re.sub(r"[^a-z0-9]+", "_", path.name.lower()).strip("_")
    if not word or not word[0].isalpha() or word in TAKEN:
        word = f"photos_{word}".rstrip("_")

    def is_free(name: str) -> bool:
        target = Path(data_dir).expanduser() / name / VERSION
        return not target.exists() or _source(target).get("root") == str(path)

    return next(filter(is_free, itertools.chain([word], (f"{word}_{number}" for number in itertools.count(2)))))


def _source(target: Path) -> dict:
    """What a prepared dataset says that it was made from; empty if it does not say."""
    try:
        return json.loads((target / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _compare(before: dict, source: dict) -> str | None:
    """What is another source than when the dataset was prepared; None if nothing is."""
    if not before:
        return ""
    if before["files"] != source["files"]:
        return f", of {before['root']}" + (" before it changed" if before["root"] == source["root"] else "")
    changed = [f"--{key}={value}" for key, value in before["options"].items() if value != source["options"].get(key)]
    return f", with {' '.join(changed)}" if changed else None


def _command(listing: Listing, target: Path, options: FolderOptions, choices: dict[str, bool]) -> str:
    """The command that makes the dataset again."""
    words = ["python", "-m", "detr_jax.dataset", "prepare", f"--name={target.parent.name}"]
    words += [f"--data_dir={target.parents[1]}", f"--root={listing.root}"]
    for key, value in (options._asdict() | choices).items():
        if value != (DEFAULT._asdict() | dict.fromkeys(choices, False))[key]:
            words.append(f"--{key}" if value is True else f"--{key}={value}")
    return shlex.join([*words, "--overwrite"])
