"""One split of a prepared dataset, read by random access and without TensorFlow."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32, Int32

from detr_jax.datasets import coco, tfds_coco
from detr_jax.datasets.index import load_index
from detr_jax.errors import UserError
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
    """

    def __init__(self, data_dir: str, dataset: str, name: str):
        self._address = data_dir, dataset, name
        self.name = name
        base, rows = _parse_split(name)
        folder = _find_folder(data_dir, dataset)
        builder = tfds.builder_from_directory(folder)
        base = _choose_split(base, list(builder.info.splits), f"{dataset} in {data_dir}")
        self._records = builder.as_data_source(base, decoders={"image": tfds.decode.SkipDecoding()})

        self._id_of_label = None  # of tfds' own coco/2017 only
        sidecars = folder
        if "objects" in builder.info.features:
            self._id_of_label = tfds_coco.map_labels_to_ids(builder.info.features)
            sidecars = _sidecar_folder(folder)
            if not (sidecars / f"index_{base}.npz").exists():
                tfds_coco.write_sidecars(builder, base, sidecars)
        self._annotations_path = sidecars / f"annotations_{base}.json"
        rows_of_table = json.loads((sidecars / "categories.json").read_text(encoding="utf-8"))
        self.categories = Categories.from_rows(rows_of_table)
        columns = load_index(sidecars / f"index_{base}.npz")
        self.image_ids, self.sizes, self.target_counts, self._positions = (column[rows] for column in columns)
        if not len(self):
            raise UserError(f"split {name!r} of {dataset} is empty: it has {len(columns.image_ids)} images")

    def __reduce__(self):
        return Split, self._address

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, row: SupportsIndex) -> Record:
        example = self._records[int(self._positions[row])]
        height, width = self.sizes[row].tolist()
        if self._id_of_label:
            annotations = tfds_coco.make_annotations(example, (height, width), self._id_of_label)
        else:
            annotations = json.loads(example["annotations"])
        image = {"height": height, "width": width}
        boxes, labels = coco.make_targets(image, annotations, self.categories)
        name = example["image/filename"].decode()
        return Record(example["image"], int(example["image/id"]), name, boxes, labels)

    def ground_truth(self) -> dict:
        """The COCO annotations of these images as the original file has them, crowds included.

        For ``coco/2017`` see ``tfds_coco``: its areas have no fraction.
        """
        sizes = dict(zip(self.image_ids.tolist(), map(tuple, self.sizes.tolist()), strict=True))
        return coco.select_images(coco.read_annotations(self._annotations_path), sizes)


def open_split(data_dir: str | os.PathLike, name: str, split: str) -> Split:
    """Opens a split of DATA_DIR/NAME, which ``dataset prepare`` or tfds (``coco/2017``) wrote.

    Args:
      data_dir: the folder of all prepared datasets.
      name: of the dataset.
      split: "train", "val", ...; "val" and "validation" are the same; "train[:8]" is its first 8 images by id.

    Raises UserError when there is no such dataset or split; the message lists those that exist.
    """
    return Split(os.fspath(data_dir), name, split)


def split_names(data_dir: str | os.PathLike, name: str) -> list[str]:
    """The splits of a prepared dataset. Raises UserError when there is no such dataset."""
    return list(tfds.builder_from_directory(_find_folder(os.fspath(data_dir), name)).info.splits)


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
            f"python -m detr_jax.dataset prepare --name={dataset} --data_dir={root} --root=FOLDER"
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
    return (
        Path("~/.cache/detr_jax").expanduser() / hashlib.sha256(os.fspath(folder.resolve()).encode()).hexdigest()[:16]
    )
