"""Images with COCO annotations -> a tfds dataset in array_record, written in a stream and checked on the way.

The writer of tfds needs TensorFlow beyond 1 GB and keeps 1 GB in memory; here each record goes straight to its shard.
DATA_DIR/NAME/1.0.0 holds, besides the files of tfds:

    categories.json           the classes: [{"id": 3, "name": "cat"}, ...]
    annotations_{split}.json  the annotation file in the one form of ``normalise``: the ground truth of evaluation;
                              what had that form already is the original letter for letter
    index_{split}.npz         one row an image, see ``index.Index``
    source.json               the folder it was made of, if it was a whole one, see ``user_folder``
    checksums.json            see ``checksums``
"""

import contextlib
import errno
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from detr_jax.datasets import coco_stream
from detr_jax.datasets.checksums import write_checksums
from detr_jax.datasets.defects import Defect, describe_defects, refuse_defects
from detr_jax.datasets.examination import Examination, Sightings, describe_rare_classes, look_at_folder
from detr_jax.datasets.folders import CocoFolder, SplitFolder, find_unlisted, merge_classes, open_folder
from detr_jax.datasets.index import Index, save_index
from detr_jax.datasets.shards import ShardWriter, make_record, make_schema
from detr_jax.errors import UserError
from detr_jax.structures import Categories

VERSION = "1.0.0"
SHARD_BYTES = 256 << 20


class Summary(NamedTuple):
    """What was written of one split, and what is odd about it."""

    images: int
    missing: int  # listed but not on disk, or not usable; left out
    empty: int  # without any annotation; kept
    targets: int  # boxes that are trained on
    crowd: int  # boxes that are kept for evaluation only
    degenerate: int  # boxes without area inside the image; not trained on
    classes: int
    defects: list[Defect]  # that do not stop
    notes: list[str]

    def describe(self, split: str) -> list[str]:
        """Lines for the user."""
        return [
            f"{split}: {self.images:,} images ({self.empty:,} empty), {self.missing:,} missing, "
            f"{self.targets:,} boxes, {self.crowd:,} crowds, {self.degenerate:,} degenerate boxes dropped, "
            f"{self.classes:,} classes",
            *describe_defects(split, self.defects),
            *(f"{split}: note: {note}" for note in self.notes),
        ]


class Provenance(NamedTuple):
    """Where a dataset comes from; kept with it."""

    description: str
    command: str  # makes it again
    source: dict = {}  # what it was made from, if that is to be known again; kept in source.json


def prepare_dataset(
    folders: dict[str, SplitFolder],
    data_dir: str | Path,
    name: str,
    *,
    overwrite: bool = False,
    skip_missing: bool = False,
    skip_broken: bool = False,
    quick: bool = False,
    provenance: Provenance | None = None,
) -> dict[str, Summary]:
    """Writes DATA_DIR/NAME/1.0.0, all of it or nothing.

    Args:
      folders: images and annotation file of each split.
      data_dir: the folder of all prepared datasets.
      name: of the dataset: lower case letters, digits and underscores.
      overwrite: replace a dataset of this name.
      skip_missing: leave out images that are listed but not on disk, instead of refusing.
      skip_broken: leave out images that cannot be decoded or have another size than is stated, instead of refusing.
      quick: look at the header of each image only; what is broken behind it is not found.
      provenance: by default this command.

    Returns:
      What was written of each split.

    Raises UserError when a folder is missing or wrong, when the target exists, or when the disk is full, and
    DefectiveData, which has everything that was found, when training would stop on it. Then nothing is left behind.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise UserError(f"--name={name} is no name for a dataset: use lower case letters, digits and _, like my_cells")
    target = Path(data_dir).expanduser() / name / VERSION
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists already: pass --overwrite to replace it, or another --name")
    opened = {split: open_folder(folder) for split, folder in folders.items()}
    files = {split: folder.source for split, folder in folders.items()}
    found = _check_files(opened, files, skip_missing)
    categories = merge_classes({split: folder.file.categories for split, folder in opened.items()})
    if provenance is None:
        choices = {"skip_missing": skip_missing, "skip_broken": skip_broken, "quick": quick}
        command = _command(folders, target, name, [key for key, chosen in choices.items() if chosen])
        provenance = Provenance("Images with COCO annotations, prepared by detr_jax.", command)
    with _replacing_folder(target) as partial:
        looked = {}
        sightings = Sightings()
        writer = _SplitWriter(partial, name, categories, quick)
        for split, folder in opened.items():
            looked[split] = Examination(split, folder.file, folder.paths, sightings, broken_stops=not skip_broken)
            writer.write(split, folder, looked[split])
        found = {split: found[split] + looked[split].defects() for split in opened}
        refuse_defects(found, files)
        writer.finish(provenance)
    notes = find_unlisted(opened)
    summaries = {}
    for split, summary in writer.summaries.items():
        summaries[split] = summary._replace(defects=found[split], notes=summary.notes + notes)
        notes = []  # said once
    return summaries


def _check_files(opened: dict[str, CocoFolder], files: dict[str, Path], skip_missing: bool) -> dict[str, list[Defect]]:
    """What is wrong before any image is opened. Raises DefectiveData if it stops; what may be left out does not."""
    for split, folder in opened.items():
        if not folder.paths:  # whatever may be left out: nothing would be left
            refuse_defects({split: folder.missing}, files, "give the folder that holds these images")
    found = {
        split: folder.defects + [defect._replace(stops=not skip_missing) for defect in folder.missing]
        for split, folder in opened.items()
    }
    refuse_defects(found, files)
    return found


def _command(folders: dict[str, SplitFolder], target: Path, name: str, choices: list[str]) -> str:
    """The command that writes this dataset again."""
    words = ["python", "-m", "detr_jax.dataset", "prepare", f"--name={name}", f"--data_dir={target.parents[1]}"]
    for split, folder in folders.items():
        words += [f"--{split}_images={folder.images}", f"--{split}_annotations={folder.annotations}"]
    if any(folder.allow_outside for folder in folders.values()):
        choices = [*choices, "allow_outside"]
    return shlex.join([*words, *(f"--{choice}" for choice in choices), "--overwrite"])


class _SplitWriter:
    """Writes the splits of one dataset into a folder."""

    def __init__(self, folder: Path, name: str, categories: Categories, quick: bool):
        self.summaries: dict[str, Summary] = {}
        self._folder, self._name, self._categories, self._quick = folder, name, categories, quick
        self._infos: list[tfds.core.SplitInfo] = []
        self._digests: dict[str, str] = {}

    def write(self, split: str, folder: CocoFolder, examination: Examination) -> None:
        """Writes all files of one split, images in ascending id, and shows each image to ``examination``."""
        self._write_records(split, folder, examination)
        usable = examination.is_usable
        file, sizes = folder.file.select_images(usable), examination.sizes[usable]
        if not usable.any():  # whatever may be left out: nothing would be left
            broken = [defect._replace(stops=True) for defect in examination.defects()]
            refuse_defects({split: broken}, {split: folder.source}, "give the folder that holds these images")
        tally = coco_stream.tally(file, sizes)
        rows = np.argsort(file.image_ids)
        count = len(rows)
        index = Index(
            file.image_ids[rows], sizes[rows].astype(np.int32), tally.targets_of_image[rows], np.arange(count)
        )
        save_index(self._folder / f"index_{split}.npz", index)
        sizes_by_id = dict(zip(file.image_ids.tolist(), map(tuple, sizes.tolist()), strict=True))
        coco_stream.copy_normalised(folder.file, sizes_by_id, self._folder / f"annotations_{split}.json")
        labels = np.searchsorted(self._categories.ids, file.category_id_of[tally.is_target])
        boxes = np.bincount(labels, minlength=len(self._categories.ids))
        self.summaries[split] = Summary(
            images=count,
            missing=sum(defect.count for defect in folder.missing) + int((~usable).sum()),
            empty=int((tally.annotations_of_image == 0).sum()),
            targets=int(tally.is_target.sum()),
            crowd=int(file.is_crowd.sum()),
            degenerate=int(tally.is_degenerate.sum()),
            classes=len(self._categories.ids),
            defects=[],
            notes=describe_rare_classes(self._categories.names, boxes),
        )

    def _write_records(self, split: str, folder: CocoFolder, examination: Examination) -> None:
        total = sum(path.stat().st_size for path in folder.paths)
        shards = min(len(folder.paths), max(1, round(total / SHARD_BYTES)))
        template = tfds.core.ShardedFileTemplate(
            data_dir=self._folder, dataset_name=self._name, split=split, filetype_suffix="array_record"
        )
        file, title = folder.file, f"{self._name}/{split}"
        looks = look_at_folder(folder, self._quick)
        pairs = zip(looks, file.annotation_texts(), strict=True)
        with ShardWriter(template, shards, total) as writer:
            for seen, (row, text) in tqdm(pairs, title, len(folder.paths), unit=" images", disable=None):
                examination.add(seen)  # None above: a progress bar on a terminal only
                if not seen.error:
                    writer.write(make_record(seen.file, file.file_names[row], int(file.image_ids[row]), text))
        self._digests |= writer.digests
        self._infos.append(tfds.core.SplitInfo(split, writer.lengths, writer.num_bytes, filename_template=template))

    def finish(self, provenance: Provenance) -> None:
        """Writes what the splits share."""
        text = json.dumps(self._categories.to_rows(), indent=1, ensure_ascii=False)
        (self._folder / "categories.json").write_text(text, encoding="utf-8")
        tfds.folder_dataset.write_metadata(
            data_dir=self._folder,
            features=make_schema(),
            split_infos=self._infos,
            version=VERSION,
            description=provenance.description,
            check_data=False,  # it would read through TensorFlow
        )
        if provenance.source:
            (self._folder / "source.json").write_text(json.dumps(provenance.source, indent=1), encoding="utf-8")
        write_checksums(self._folder, provenance.command, self._digests)


@contextlib.contextmanager
def _replacing_folder(target: Path) -> Iterator[Path]:
    """Yields an empty sibling folder that takes the place of ``target`` when the block ends without an error."""
    partial, replaced = (target.with_name(f"{target.name}.{state}") for state in ("incomplete", "replaced"))
    try:
        for leftover in (partial, replaced):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
    except (OSError, RuntimeError) as error:  # array_record reports a full disk as a RuntimeError
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise UserError(f"the disk of {target} is full: make room or choose another --data_dir") from error
        if isinstance(error, OSError):
            raise UserError(f"{target} cannot be written ({error}): choose another --data_dir") from error
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
        with contextlib.suppress(OSError):
            target.parent.rmdir()  # removes it only if it is empty: nothing was prepared
