"""Images with COCO annotations -> a tfds dataset in array_record, written in a stream.

The writer of tfds needs TensorFlow beyond 1 GB and keeps 1 GB in memory; here each record goes straight to its shard.
DATA_DIR/NAME/1.0.0 holds, besides the files of tfds:

    categories.json           the classes: [{"id": 3, "name": "cat"}, ...]
    annotations_{split}.json  the original file, byte for byte: the ground truth of evaluation
    index_{split}.npz         one row an image, see ``index.Index``
"""

import contextlib
import errno
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from detr_jax.datasets import coco_stream
from detr_jax.datasets.folders import (
    CocoFolder,
    SplitFolder,
    open_folder,
    refuse_defects,
    refuse_different_categories,
)
from detr_jax.datasets.index import Index, save_index
from detr_jax.errors import UserError
from detr_jax.images import image_size

VERSION = "1.0.0"
SHARD_BYTES = 256 << 20
# One record a group, for random access. No compression: it gains nothing on JPEG and takes two thirds of the time.
WRITER_OPTIONS = "group_size:1,uncompressed"


class Summary(NamedTuple):
    """What was written of one split."""

    images: int
    missing: int  # listed but not on disk; left out
    empty: int  # without any annotation; kept
    targets: int  # boxes that are trained on
    crowd: int  # boxes that are kept for evaluation only
    degenerate: list[str]  # boxes without area inside the image, each with its id; not trained on
    classes: int


def make_schema() -> tfds.features.FeaturesDict:
    """The features of a record. Annotations stay JSON text: tfds would round numbers to float32."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "image/filename": tfds.features.Text(),
            "image/id": tfds.features.Scalar(np.int64),
            "annotations": tfds.features.Text(),
        }
    )


def prepare_dataset(
    folders: dict[str, SplitFolder],
    data_dir: str | Path,
    name: str,
    *,
    overwrite: bool = False,
    skip_missing: bool = False,
    description: str = "Images with COCO annotations, prepared by detr_jax.",
) -> dict[str, Summary]:
    """Writes DATA_DIR/NAME/1.0.0, all of it or nothing.

    Args:
      folders: images and annotation file of each split.
      data_dir: the folder of all prepared datasets.
      name: of the dataset: lower case letters, digits and underscores.
      overwrite: replace a dataset of this name.
      skip_missing: leave out images that are listed but not on disk, instead of refusing.
      description: kept in ``dataset_info.json``.

    Returns:
      What was written of each split.

    Raises UserError when a folder is missing or wrong, when the target exists, or when the disk is full. Then nothing
    is left behind.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise UserError(f"--name={name} is no name for a dataset: use lower case letters, digits and _, like my_cells")
    target = Path(data_dir).expanduser() / name / VERSION
    if target.exists() and not overwrite:
        raise UserError(f"{target} exists already: pass --overwrite to replace it, or another --name")
    opened = {split: _open_or_refuse(folder, skip_missing) for split, folder in folders.items()}
    refuse_different_categories({split: folder.file.categories for split, folder in opened.items()})

    with _replacing_folder(target) as partial:
        split_infos, summaries = [], {}
        for split, folder in opened.items():
            split_info, summaries[split] = _write_split(folder, partial, name, split)
            split_infos.append(split_info)
        rows = next(iter(opened.values())).file.categories.to_rows()
        (partial / "categories.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
        tfds.folder_dataset.write_metadata(
            data_dir=partial,
            features=make_schema(),
            split_infos=split_infos,
            version=VERSION,
            description=description,
            check_data=False,  # it would read through TensorFlow
        )
    return summaries


def _open_or_refuse(folder: SplitFolder, skip_missing: bool) -> CocoFolder:
    """The folder, read. Raises UserError when training would stop on something in it."""
    opened, path = open_folder(folder), folder.annotations
    refuse_defects(path, opened.defects, "correct the file (python -m detr_jax.dataset check names every one)")
    if not opened.paths:
        refuse_defects(path, opened.missing, "give the folder that holds these images")
    if not skip_missing:
        refuse_defects(path, opened.missing, "add them, or pass --skip_missing to leave them out")
    return opened


def _write_split(folder: CocoFolder, target: Path, name: str, split: str) -> tuple[tfds.core.SplitInfo, Summary]:
    """Writes all files of one split, images in ascending id."""
    file, paths = folder.file, folder.paths
    count = len(paths)
    shards = min(count, max(1, round(sum(path.stat().st_size for path in paths) / SHARD_BYTES)))
    lengths = [len(part) for part in np.array_split(np.arange(count), shards)]
    template = tfds.core.ShardedFileTemplate(
        data_dir=target, dataset_name=name, split=split, filetype_suffix="array_record"
    )
    shard_paths = [template.sharded_filepath(shard_index=i, num_shards=shards) for i in range(shards)]

    schema = make_schema()
    sizes = np.zeros((count, 2), np.int64)
    progress = tqdm(
        file.annotation_texts(), f"{name}/{split}", count, unit=" images", disable=None
    )  # None: on a terminal only
    texts = iter(progress)
    for path, length in zip(shard_paths, lengths, strict=True):
        with contextlib.closing(ArrayRecordWriter(str(path), WRITER_OPTIONS)) as writer:
            for _ in range(length):
                row, text = next(texts)
                image = paths[row].read_bytes()
                sizes[row] = _annotated_size(image, folder, row)
                example = {
                    "image": image,
                    "image/filename": file.file_names[row],
                    "image/id": file.image_ids[row],
                    "annotations": text,
                }
                writer.write(schema.serialize_example(schema.encode_example(example)))
    progress.close()

    tally = coco_stream.tally(file, sizes)
    rows = np.argsort(file.image_ids)
    save_index(
        target / f"index_{split}.npz",
        Index(file.image_ids[rows], sizes[rows].astype(np.int32), tally.targets_of_image[rows], np.arange(count)),
    )
    shutil.copyfile(file.path, target / f"annotations_{split}.json")
    num_bytes = sum(path.stat().st_size for path in map(Path, shard_paths))
    summary = Summary(
        images=count,
        missing=len(folder.missing),
        empty=int((tally.annotations_of_image == 0).sum()),
        targets=int(tally.is_target.sum()),
        crowd=int(file.is_crowd.sum()),
        degenerate=[coco_stream.describe_annotation(file, row) for row in np.flatnonzero(tally.is_degenerate).tolist()],
        classes=len(file.categories.ids),
    )
    return tfds.core.SplitInfo(split, lengths, num_bytes, filename_template=template), summary


def _annotated_size(image: bytes, folder: CocoFolder, row: int) -> tuple[int, int]:
    """(height, width) that the boxes of an image refer to.

    That is what the annotations say; the file must have it, upright or as stored. Without it: the upright size.
    """
    stated = tuple(folder.file.sizes[row].tolist())
    try:
        return image_size(image, stated if any(stated) else None)
    except ValueError as error:
        raise UserError(
            f"{folder.paths[row]} (image {folder.file.image_ids[row]}): {error}: replace the file, or take it out of "
            f"{folder.file.path}"
        ) from error


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
