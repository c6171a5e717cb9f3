"""One split of a prepared dataset, read by random access and without TensorFlow."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32, Int32

from detr_jax import files
from detr_jax.datasets import coco, tfds_coco
from detr_jax.datasets.checksums import CHECKSUMS, read_checksums
from detr_jax.datasets.index import Index, load_index
from detr_jax.errors import UserError
from detr_jax.images.headers import one_line
from detr_jax.structures import Categories


class Record(NamedTuple):
    """One image as it is stored, with its training targets."""

    image: bytes  # the image file, byte for byte
    image_id: int
    file_name: str
    boxes_xyxy_pixels: Float32[np.ndarray, "n 4"]
    labels: Int32[np.ndarray, " n"]  # contiguous


class Split:
    """``split[i]`` is the Record of the i-th image in ascending image id, not in the order on disk.

    Threads may share it. It is pickled as its address, so a worker process opens its own files.

    Attributes:
      name: as it was asked for: "train", "val", "train[:8]", ...
      categories: the classes of the dataset.
      image_ids: int64 [M].
      sizes: int32 [M 2], the (height, width) that the boxes refer to.
      target_counts: int32 [M], how many boxes of each image are trained on.
      annotations_path: the annotation file, of all images of the dataset's split.
    """

    def __init__(self, data_dir: str, dataset: str, name: str, verify: bool = True):
        self._address = data_dir, dataset, name, verify
        self.name = name
        base, rows = _parse_split(name)
        folder = _find_folder(data_dir, dataset)
        builder = _open_builder(folder, data_dir, dataset)
        base = _choose_split(base, list(builder.info.splits), f"{dataset} in {data_dir}")
        info = builder.info.splits[base]
        self._shards, self._shard_ends = [path.name for path in info.filepaths], np.cumsum(info.shard_lengths)

        self._id_of_label, self._checksums = None, None  # the one of tfds' own coco/2017 only, the other of ours
        sidecars = folder
        if "objects" in builder.info.features:
            self._id_of_label = tfds_coco.map_labels_to_ids(builder.info.features)
            sidecars = _sidecar_folder(folder)
            if not (sidecars / f"index_{base}.npz").exists():
                tfds_coco.write_sidecars(builder, base, sidecars)
        else:
            self._checksums = read_checksums(folder, _prepare_command(data_dir, dataset))
            self._checksums.verify_split(base)
        self._where = f"split {base} of the dataset {dataset}"
        self.annotations_path = sidecars / f"annotations_{base}.json"
        rows_of_table = json.loads((sidecars / "categories.json").read_text(encoding="utf-8"))
        self.categories = Categories.from_rows(rows_of_table)
        columns = load_index(sidecars / f"index_{base}.npz")
        if verify and self._checksums is not None:
            self._verify_shards(columns)
        self._records = self._open_records(builder, base)
        self.image_ids, self.sizes, self.target_counts, self._positions = (column[rows] for column in columns)
        if not len(self):
            raise UserError(f"split {name!r} of {dataset} is empty: it has {len(columns.image_ids)} images")

    def _verify_shards(self, index: Index) -> None:
        bad = self._checksums.find_bad_shard(self._shards)
        if bad:
            number, damage = bad
            ids = index.image_ids[np.searchsorted(self._shard_ends, index.positions, side="right") == number]
            which = f"images {ids.min()} to {ids.max()}" if len(ids) else "no image"
            raise self._checksums.complain(f"{damage}, with {which} of {self._where}")

    def _open_records(self, builder: tfds.core.DatasetBuilder, split: str) -> Sequence:  # reads when it is asked
        try:
            return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        except Exception as error:  # of array_record, of many kinds: a shard is missing or no shard
            raise self._complain(f"a shard is missing or damaged ({one_line(error)})", 0) from error

    def __reduce__(self):
        return Split, self._address

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, row: SupportsIndex) -> Record:
        """Raises UserError when the record is damaged, or another image's."""
        example = self._read_example(row)
        height, width = self.sizes[row].tolist()
        if self._id_of_label:
            annotations = tfds_coco.make_annotations(example, (height, width), self._id_of_label)
        else:
            annotations = json.loads(example["annotations"])
        image = {"height": height, "width": width}
        boxes, labels = coco.make_targets(image, annotations, self.categories)
        name = example["image/filename"].decode()
        return Record(example["image"], int(example["image/id"]), name, boxes, labels)

    def _read_example(self, row: SupportsIndex) -> dict:
        position, image_id = int(self._positions[row]), int(self.image_ids[row])
        try:
            example = self._records[position]
            found = int(example["image/id"])
        except Exception as error:  # of array_record and of parsing, of many kinds
            raise self._complain(f"the record of image {image_id} is damaged ({one_line(error)})", position) from error
        if found != image_id:
            raise self._complain(f"the record of image {image_id} is that of image {found}", position)
        return example

    def _complain(self, what: str, position: int) -> UserError:
        shard = self._shards[min(int(np.searchsorted(self._shard_ends, position, side="right")), len(self._shards) - 1)]
        sentence = f"{what} in {shard} of {self._where}"
        if self._checksums is not None:
            return self._checksums.complain(sentence)
        return UserError(f"{sentence}: prepare it again with tfds")

    def ground_truth(self) -> dict:
        """The COCO annotations of these images, crowds included, in the one form of ``normalise``.

        For ``coco/2017`` see ``tfds_coco``: its areas have no fraction.
        """
        sizes = dict(zip(self.image_ids.tolist(), map(tuple, self.sizes.tolist()), strict=True))
        if self._checksums is not None:
            self._checksums.verify([self.annotations_path.name])
        truth = coco.select_images(coco.read_annotations(self.annotations_path), sizes)
        listed = {row["id"] for row in truth["categories"]}
        others = [row for row in self.categories.to_rows() if row["id"] not in listed]  # that other splits list
        return truth | {"categories": truth["categories"] + others}


def open_split(data_dir: str | os.PathLike, name: str, split: str, verify: bool = True) -> Split:
    """Opens a split of DATA_DIR/NAME, which ``dataset prepare`` or tfds (``coco/2017``) wrote.

    Args:
      data_dir: the folder of all prepared datasets.
      name: of the dataset.
      split: "train", "val", ...; "val" and "validation" are the same; "train[:8]" is its first 8 images by id.
      verify: compare its shards with their checksums, as ``checksums`` says; other files are compared anyway.

    Raises UserError when there is no such dataset or split, where the message lists those that exist, and when a file
    is damaged.
    """
    return Split(os.fspath(data_dir), name, split, verify)


def split_names(data_dir: str | os.PathLike, name: str) -> list[str]:
    """The splits of a prepared dataset. Raises UserError when there is no such dataset."""
    return list(tfds.builder_from_directory(_find_folder(os.fspath(data_dir), name)).info.splits)


def find_damage(data_dir: str | os.PathLike, name: str) -> list[str]:
    """What is wrong with the files of a dataset that ``dataset prepare`` wrote, all of them compared completely.

    Raises UserError when there is no such dataset, or when its list of checksums is damaged.
    """
    folder = _find_folder(os.fspath(data_dir), name)
    if "objects" in _read_features(folder):
        return []  # of tfds' own coco/2017
    checksums = read_checksums(folder, _prepare_command(os.fspath(data_dir), name))
    damages = [checksums.find_damage(file) for file in checksums.files]
    return [f"{damage}: make the dataset again with {checksums.command}" for damage in damages if damage]


def _read_features(folder: Path) -> str:
    try:
        return (folder / "features.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _open_builder(folder: Path, data_dir: str, dataset: str) -> tfds.core.DatasetBuilder:
    """What tfds makes of the folder. Raises UserError when it is damaged."""
    if (folder / CHECKSUMS).exists():  # first: tfds imports what the description names
        checksums = read_checksums(folder, _prepare_command(data_dir, dataset))
        checksums.verify(["features.json", "dataset_info.json"])
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # JSON and protobuf errors of many kinds
        raise UserError(
            f"the description of {folder} is damaged ({one_line(error)}): make the dataset again with "
            f"{_prepare_command(data_dir, dataset)} --overwrite"
        ) from error


def _prepare_command(data_dir: str, dataset: str) -> str:
    return f"python -m detr_jax.dataset prepare --name={dataset} --data_dir={data_dir} --root=FOLDER"


def _parse_split(name: str) -> tuple[str, slice]:
    """``train[:8]`` as "train" and its slice."""
    match = re.fullmatch(r"(\w+)(?:\[(\d*):(\d*)\])?", name)
    if not match:
        raise UserError(f"{name!r} is no split: write it like train, val or train[:100]")
    first, last = (int(group) if group else None for group in match.groups()[1:])
    return match[1], slice(first, last)


def _find_folder(data_dir: str, dataset: str) -> Path:
    """DATA_DIR/DATASET/VERSION, the newest version that is complete."""
    root = Path(data_dir).expanduser()
    versions = _list_versions(root / dataset, "*")
    if not versions:
        existing = ", ".join(sorted({str(path.parent.relative_to(root)) for path in _list_versions(root, "**")}))
        raise UserError(
            f"no prepared dataset {dataset!r} in {root} (there is {existing or 'none'}): make it with "
            f"{_prepare_command(str(root), dataset)}"
        )
    return max(versions, key=lambda path: tuple(map(int, path.name.split("."))))


def _list_versions(root: Path, depth: str) -> list[Path]:
    """The folders below ``root`` that are named like a version and complete: 1.0.0 but not 1.0.0.incomplete."""
    folders = [path.parent for path in root.glob(f"{depth}/dataset_info.json")]
    return [folder for folder in folders if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]


def _choose_split(split: str, existing: list[str], where: str) -> str:
    alias = {"val": "validation", "validation": "val"}.get(split, split)
    for candidate in (split, alias):
        if candidate in existing:
            return candidate
    raise UserError(f"no split {split!r} in dataset {where}: choose from {', '.join(sorted(existing))}")


def _sidecar_folder(folder: Path) -> Path:
    """Where sidecars of a dataset are kept: beside it, or in the user's cache where it cannot be written to."""
    if os.access(folder, os.W_OK):
        return folder
    return files.cache_folder() / hashlib.sha256(os.fspath(folder.resolve()).encode()).hexdigest()[:16]
