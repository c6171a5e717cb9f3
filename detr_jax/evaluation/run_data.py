"""What a training learned from: its two splits, as far as they are still there."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, SupportsIndex, runtime_checkable

import numpy as np

from detr_jax import names
from detr_jax.config import DataConfig
from detr_jax.errors import UserError
from detr_jax.spelling import count
from detr_jax.structures import Categories

MOST_BYTES = 30_000_000  # of an annotation file that is read only to count the objects of each class


@runtime_checkable
class StoredSplit(Protocol):
    """What is asked of a split: that of ``detr_jax.datasets``, or anything alike."""

    name: str
    categories: Categories
    image_ids: np.ndarray  # [M], ascending
    sizes: np.ndarray  # [M 2], (height, width)
    target_counts: np.ndarray  # [M], boxes that are trained on
    annotations_path: Path

    def __len__(self) -> int: ...

    def __getitem__(self, row: SupportsIndex) -> Any: ...  # has the ``image`` as bytes

    def ground_truth(self) -> dict: ...  # in COCO's format


@runtime_checkable
class SplitOpener(Protocol):
    """How a split of a prepared dataset is opened. Raises UserError where it is not there."""

    def __call__(self, data_dir: str, name: str, split: str, verify: bool = True) -> StoredSplit: ...


class RunData(NamedTuple):
    """The data of a run.

    Attributes:
      train, val: the splits; None where they cannot be opened.
      truth: the annotations of ``val``.
      trained: objects of each class, by its id, in ``train``; None where they were not counted.
      notes: sentences about what is missing.
    """

    train: StoredSplit | None
    val: StoredSplit | None
    truth: dict | None
    trained: dict[int, int] | None
    notes: list[str]


def read_run_data(data: DataConfig | None, open_split: SplitOpener) -> RunData:
    """Opens the splits that these settings name."""
    notes: list[str] = []
    if data is None:
        return RunData(None, None, None, None, notes)
    train, val = (_open(open_split, data, split, notes) for split in (data.train_split, data.val_split))
    truth = _read_truth(val, notes) if val else None
    trained = None
    if train and _is_small(train.annotations_path):
        same = truth is not None and data.train_split == data.val_split
        rows = (truth if same else _read_truth(train, notes) or {}).get("annotations", [])
        trained = dict(Counter(row["category_id"] for row in rows if not row.get("iscrowd"))) if rows else None
    return RunData(train, val, truth, trained, list(dict.fromkeys(notes)))


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= MOST_BYTES


def _open(open_split: SplitOpener, data: DataConfig, split: str, notes: list[str]) -> StoredSplit | None:
    try:
        return open_split(data.dir, data.name, split, verify=False)
    except (UserError, OSError, ValueError) as error:
        notes.append(f"The data cannot be opened ({error}), so their counts and the images are not shown.")
        return None


def _read_truth(split: StoredSplit, notes: list[str]) -> dict | None:
    try:
        return split.ground_truth()
    except (UserError, OSError, ValueError) as error:
        notes.append(f"The annotations cannot be read ({error}), so images are not shown.")
        return None


def describe_split(split: StoredSplit) -> str:
    """Images, objects and sizes in words."""
    objects, empty = int(split.target_counts.sum()), int((split.target_counts == 0).sum())
    words = f"{count(len(split), 'image')} with {count(objects, 'object')}"
    if empty and empty < len(split):
        words += f" ({count(empty, 'image')} without any)"
    return f"{words}; {describe_sizes(split.sizes)}"


def describe_sizes(sizes: np.ndarray) -> str:
    """Width and height in pixels: of all, or of the smallest and the largest."""
    order = np.lexsort((sizes[:, 1], sizes[:, 0] * sizes[:, 1]))
    small, large = (f"{width} x {height}" for height, width in sizes[order[[0, -1]]].tolist())
    return f"{small} pixels" if (sizes == sizes[0]).all() else f"from {small} to {large} pixels"


def list_names(given: Sequence[str], most: int = 10) -> str:
    """Names in a sentence, the first of many."""
    shown = ", ".join(names.single_line(name) for name in given[:most])
    return shown + (f" and {len(given) - most} more" if len(given) > most else "")
